"""The days in shadow: a version that passed its examination is examined again on what came after it was made.

Nothing of it runs in the daemon. Forecasts are functions of known history, so what a stored version would have said on
the days since is worked out when they are over, beside what the live one would have: the same comparison as if both had
run. It decides whether the version in shadow goes live or is set aside, and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from forecaster import registry
from forecaster.errors import ArtefactError
from forecaster.gate import examine
from forecaster.preprocess import DAY
from forecaster.stages import Stage
from forecaster.types import Forecaster, Panel

LEAST = timedelta(hours=23)
"""Time in shadow before a version is judged: a day, less what a nightly job may begin earlier than the last one."""
MOST = 3 * DAY
"""The newest days say most, and more of them take minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What became of a version in shadow: `stage` is LIVE, STORED (set aside), or still SHADOW."""

    model: str
    version: str
    stage: Stage
    reason: str


def review(root: Path, panel: Panel, *, models: Sequence[str], now: datetime) -> tuple[Review, ...]:
    """Judge each of `models` that has a version in shadow on the part of `panel` that came after it was taken up.

    One that has not been there for `LEAST` waits on; a version that cannot be read any more is set aside. Raises
    `SeriesError` where no series of the panel has demand in that time, and `ArtefactError` for a damaged pointer.
    """
    found = []
    for model in models:
        version = registry.shadow_version(root, model)
        if version is None:
            continue
        standing = registry.stages(root, model).get(version)
        since = panel.start if standing is None or standing.since is None else standing.since
        fresh = panel.end - since
        if fresh < LEAST:
            reason = f"in shadow since {since:%F %H:%M}, judged after a day"
            found.append(Review(model=model, version=version, stage=Stage.SHADOW, reason=reason))
        else:
            found.append(_judged(root, model, version, panel, held_out=min(fresh, MOST), now=now))
    return tuple(found)


def _judged(root: Path, model: str, version: str, panel: Panel, *, held_out: timedelta, now: datetime) -> Review:
    """Examine the version on the last `held_out`, and move it to its next stage."""
    try:
        candidate = registry.load(root, model, version=version, step=panel.step)
    except ArtefactError as error:
        return _set_aside(root, model, version, f"cannot be read any more: {error}", now=now)
    verdict = examine(candidate, _live(root, model, panel.step), panel, held_out=held_out)
    reason = f"{held_out / DAY:.1f} days in shadow: {verdict.reason}"
    if not verdict.passed:
        return _set_aside(root, model, version, reason, now=now)
    registry.promote(root, model, version, reason=reason, now=now)
    return Review(model=model, version=version, stage=Stage.LIVE, reason=reason)


def _set_aside(root: Path, model: str, version: str, reason: str, *, now: datetime) -> Review:
    registry.set_aside(root, model, version, reason=reason, now=now)
    return Review(model=model, version=version, stage=Stage.STORED, reason=reason)


def _live(root: Path, model: str, step: timedelta) -> Forecaster | None:
    """The live version; None where it cannot be used: then there is nothing to lose by another."""
    try:
        return registry.load(root, model, step=step)
    except ArtefactError:
        return None
