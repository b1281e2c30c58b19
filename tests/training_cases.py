"""What the tests of training share: small panels of wide bins, an examiner without opinions, engines that stop early."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.engines import HERE
from forecaster.fits import Fitted, Part, Progress
from forecaster.gate import Verdict
from forecaster.train import Outcome, Work
from forecaster.types import Forecaster, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
WIDE = timedelta(minutes=10)


def a_panel(series: int, *, days: float = 5, seed: int = 1, step: timedelta = WIDE) -> Panel:
    """Poisson arrivals over a daily wave, each series at a level of its own; bins of ten minutes make fits quick."""
    per_day = timedelta(days=1) // step
    wave = 1.0 + 0.6 * np.sin(2 * np.pi * np.arange(int(days * per_day)) / per_day)
    mean = wave[None, :] * (5.0 + np.arange(series)[:, None])
    values = np.random.default_rng(seed).poisson(mean * 60.0) / 60.0
    keys = tuple(SeriesKey(workload=f"llm/w{number:03d}", signal="demand_rps") for number in range(series))
    return Panel(keys=keys, start=START, step=step, values=values)


def easy_going(candidate: Forecaster, incumbent: Forecaster | None, panel: Panel, *, held_out: timedelta) -> Verdict:
    """An examiner whom everybody passes, for tests that are about something else."""
    return Verdict(passed=True, reason="everybody passes", report={"incumbent": incumbent and incumbent.model_id})


@dataclass(kw_only=True)
class Watched:
    """The engine of this process, noting what it was asked for; ends after `most` parts, by `ends_with` if given."""

    most: int | None = None
    ends_with: type[BaseException] | None = None
    asked: list[str] = field(default_factory=list)
    name: str = "watched"

    def run(self, parts: Sequence[Part], *, until_s: float | None, progress: Progress) -> Generator[Fitted]:
        for number, one in enumerate(self._fitted(parts, until_s, progress)):
            if number == self.most:
                break
            yield one
        if self.ends_with is not None:
            raise self.ends_with

    def _fitted(self, parts: Sequence[Part], until_s: float | None, progress: Progress) -> Iterator[Fitted]:
        self.asked += [part.digest for part in parts]
        return HERE.run(parts, until_s=until_s, progress=progress)


def quick(**more: Any) -> Work:
    """Work without an examination worth the name."""
    return Work(examine=easy_going, **more)


def stored(root: Path) -> dict[str, bytes]:
    """Every model file under `root`, by its path: what must not depend on who fitted it."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "current.json", "lock")
    }


def versions(outcomes: Sequence[Outcome]) -> dict[str, str | None]:
    """The version of each model."""
    return {each.model: each.version for each in outcomes}
