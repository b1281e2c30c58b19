"""Asks the metrics server about itself, each question within the connection's deadline. What fails stays unknown."""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from itertools import pairwise

from forecaster.errors import SourceError
from forecaster.sources.connection import Connection
from forecaster.sources.exchange import Answer, Question, Wire
from forecaster.sources.plan import ENGINE_METRIC
from scaler.doctor.metrics import ServerFacts

LOOKED_BACK = tuple(timedelta(days=days) for days in (1, 3, 7, 13))
"""How far back series are looked for, one question each."""

SCRAPES_WITHIN_S = 180
"""Three scrapes at the common interval of a minute."""


def look_server(connection: Connection) -> ServerFacts:
    """What the server says of itself. Raises `SourceError` if it does not answer at all."""
    texts = {
        "time": "vector(time())",
        "version": "count by (version) (prometheus_build_info)",
        "scrapes": f"{ENGINE_METRIC}[{SCRAPES_WITHIN_S}s]",
        "now": f"count({ENGINE_METRIC})",
        **{f"{back.days}d": f"count({ENGINE_METRIC} offset {back.days}d)" for back in LOOKED_BACK},
    }
    questions = [Question(text=text) for text in texts.values()]
    asked_at = time.time()
    answers = dict(zip(texts, Wire(connection).ask(questions, deadline_s=connection.deadline_s), strict=True))
    first = answers["time"]
    if isinstance(first, SourceError):
        raise first
    return ServerFacts(
        version=_label(answers["version"], "version"),
        skew_s=_skew(first, asked_at=asked_at, answered_at=time.time()),
        past=_past(answers),
        scrape_s=_interval(answers["scrapes"]),
    )


def _skew(answer: Answer, *, asked_at: float, answered_at: float) -> float | None:
    """The server's clock less ours: zero where it lies within the time that the question took."""
    theirs = _number(answer)
    if theirs is None:
        return None
    return theirs - min(max(theirs, asked_at), answered_at)


def _past(answers: dict[str, Answer | SourceError]) -> timedelta | None:
    if any(isinstance(answers[name], SourceError) for name in ("now", *(f"{each.days}d" for each in LOOKED_BACK))):
        return None
    return max((back for back in LOOKED_BACK if _number(answers[f"{back.days}d"])), default=timedelta(0))


def _interval(samples: Answer | SourceError) -> float | None:
    """The usual distance of an engine's samples, seconds; None where none has two."""
    if isinstance(samples, SourceError):
        return None
    gaps = [later - earlier for row in samples.rows for earlier, later in pairwise(row.times)]
    return statistics.median(gaps) if gaps else None


def _number(answer: Answer | SourceError) -> float | None:
    if isinstance(answer, SourceError) or not answer.rows:
        return None
    return answer.rows[0].values[-1]


def _label(answer: Answer | SourceError, name: str) -> str | None:
    if isinstance(answer, SourceError) or not answer.rows:
        return None
    return answer.rows[0].labels.get(name)
