"""What the daemon runs when, and in which lane; the work itself is elsewhere.

Lanes (one thread each, so that none delays another): `tick` decides and writes; `forecast` takes in the last minute
and runs the models; `upkeep` folds history and checks histograms; `train` looks for drift and waits for the refit.
`placeholders`, where there are any, sizes the pods that hold nodes ready: its job is its module's own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from forecaster import drift
from scaler.adapters.jobs import Job
from scaler.config import Config
from scaler.daemon import rivals
from scaler.daemon.derived import night_of
from scaler.daemon.rivals import RivalWatch
from scaler.daemon.upkeep import Upkeep

SCRAPE_DELAY = timedelta(seconds=3)
"""After a minute's end until its last scrape is stored; the forecast begins then."""

TICK_DELAY = timedelta(seconds=8)
"""After a minute's end until the tick: the forecast of that minute is usually out by then, and not waited for."""


class Work(Protocol):
    """What there is to run; `scaler.daemon.process.Daemon` is one."""

    upkeep: Upkeep
    rivals: RivalWatch

    def tick(self) -> None:
        """One round."""


def jobs_of(config: Config, work: Work) -> tuple[Job, ...]:
    """Every job of a daemon but that of placeholders. What it calls is looked up at each run."""
    minute, tick = timedelta(minutes=1), config.tick
    # A short tick has no room to wait for the forecast: it takes the last one.
    delay = TICK_DELAY if tick >= timedelta(seconds=30) else timedelta(0)
    return (
        Job(name="tick", run=work.tick, interval=tick, lane="tick", offset=delay, at_start=True),
        Job(
            name="forecast",
            run=lambda: work.upkeep.forecast(now=datetime.now(UTC)),
            interval=minute,
            lane="forecast",
            offset=SCRAPE_DELAY,
            at_start=True,
        ),
        Job(
            name="edges",
            run=lambda: work.upkeep.judge_edges(now=datetime.now(UTC)),
            interval=minute,
            lane="upkeep",
            offset=timedelta(seconds=20),
        ),
        Job(
            name="rivals",
            run=lambda: work.rivals.look(),
            interval=rivals.EVERY,
            lane="upkeep",
            offset=timedelta(seconds=40),
            at_start=True,
        ),
        Job(
            name="compact",
            run=lambda: work.upkeep.compact(now=datetime.now(UTC)),
            interval=timedelta(hours=1),
            lane="upkeep",
            offset=timedelta(minutes=7, seconds=30),
        ),
        Job(
            name="refit",
            run=lambda: work.upkeep.refit(now=datetime.now(UTC)),
            interval=timedelta(days=1),
            lane="train",
            offset=night_of(config),
        ),
        Job(
            name="drift",
            run=lambda: work.upkeep.watch_drift(now=datetime.now(UTC)),
            interval=drift.EVERY,
            lane="train",
            offset=timedelta(minutes=37),
        ),
    )
