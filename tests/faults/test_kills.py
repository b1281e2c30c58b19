"""Row 24 of the table: `kill -9` at every point that matters and at any moment between them.

After each restart: the journal is whole and every decision in it can be made again, whatever was written to the
cluster is on record, nothing was ordered twice, and the first decision comes soon. The long size is `make soak`.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path

import pytest

from daemon_process import DaemonProcess, until
from failpoints import MARK
from fault_proxy import FaultProxy
from fault_world import FaultWorld, Scraped
from forecaster import registry
from forecaster.models.holt_winters import Smoothing
from forecaster.models.stored import holt_winters_bytes
from forecaster.types import SeriesKey
from kube_double import KubeDouble
from policy_cases import NOON
from scaler.adapters.journal import SqliteJournal, replay
from scaler.adapters.store import FILE_NAME
from scaler.policy.decide import decide_within
from scaler.ports import OutcomeKind
from servers import free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(7200)]

KILLS = 500 if os.environ.get("HEADSTART_SOAK") else 20
FINISHED = "headstart_tick_last_success_timestamp_seconds"
DECIDES_WITHIN_S = 30.0
"""Of a machine that does other work besides; an idle one takes some tenths of a second, and the story prints it."""

A_CHAPTER = 20
"""Lives in one data folder, on one cluster."""

POINTS = ("before_journal", "in_journal", "after_journal", "after_patch", "after_outcomes", "in_save")


@dataclass(kw_only=True)
class Chapter:
    """A cluster and a data folder that many lives share. Each life has something to order: a replica a tick."""

    world: FaultWorld
    port: int
    lives: Iterator[int] = field(default_factory=count)

    @property
    def database(self) -> Path:
        return self.world.folder / "data" / FILE_NAME

    def start(self, *, failpoint: str | None = None) -> DaemonProcess:
        config = self.world.config_file(tick="1s", port=self.port, start_time="30s", most=400)
        text = config.read_text().replace(
            "    latency:", "    step: {period: 1s, most_added: 1, most_growth_ratio: 0}\n    latency:"
        )
        config.write_text(text.replace("max_rps: 2", "max_rps: 0.02"))
        log = self.world.folder / f"life-{next(self.lives)}.log"
        return DaemonProcess(config, self.port, log=log, failpoint=failpoint)

    def writes(self) -> list[int]:
        """What the cluster was told to scale to, in order."""
        return [
            int(each.body["spec"]["replicas"])
            for each in self.world.cluster.requests
            if each.method == "PATCH" and each.path.endswith("/scale") and each.status == 200
        ]

    def is_whole(self) -> None:
        """Nothing lost, doubled or torn."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not list(self.database.parent.glob("*.damaged-*"))
        with SqliteJournal.open(self.database, now=datetime.now(UTC), read_only=True) as journal:
            ticks, entries = journal.ticks(), list(journal.records())
            rows = list(replay(entries, decide_within))
        assert len(entries) == len(ticks), "one workload: a record a tick, and none torn"
        assert [(one, two) for one, two in pairwise(ticks) if one >= two] == [], "no tick twice"
        assert all(row.equal for row in rows)
        ordered = [row.replayed.target for row in rows if row.replayed.target != row.replayed.current]
        writes = self.writes()
        assert set(writes) <= set(ordered), "whatever was written had been on record before"
        assert all(later == earlier + 1 for earlier, later in pairwise(writes)), "one step each, none twice"
        told = [entry.outcome for entry in entries if entry.outcome is not None]
        assert not [each for each in told if each.kind in (OutcomeKind.CONFLICT, OutcomeKind.FAILED)]


@pytest.fixture
def chapters(scraped: Scraped, tmp_path: Path) -> Iterator[Iterator[Chapter]]:
    """Chapters as they are needed, each with a cluster and a folder of its own."""

    def fresh() -> Iterator[Chapter]:
        for number in count():
            folder = tmp_path / f"chapter-{number}"
            folder.mkdir()
            with FaultProxy(scraped.prometheus.url) as proxy, KubeDouble(real_time=True) as cluster:
                cluster.namespace("llm")
                cluster.deployment("llm", "chat", replicas=1)
                world = FaultWorld(scraped=scraped, proxy=proxy, cluster=cluster, folder=folder)
                yield Chapter(world=world, port=free_port())

    made = fresh()
    yield made
    made.close()  # type: ignore[attr-defined]


def first_decision_s(process: DaemonProcess) -> float:
    """From the start of the daemon's work to the end of its first finished tick; of a later one where it was missed."""
    until(lambda: process.ready, what=f"a first tick: {process.text[-2000:]}")
    (started,) = until(lambda: process.events("started"))
    lines = process.get("/metrics")[1].splitlines()
    finished_s = next(float(line.split()[-1]) for line in lines if line.startswith(f"{FINISHED} "))
    return finished_s - datetime.fromisoformat(started["timestamp"]).timestamp()


def test_row_24_killed_at_a_failpoint_nothing_is_lost_doubled_or_torn(chapters: Iterator[Chapter]) -> None:
    """One life after the other in one data folder, each dies at another point and is what the next goes on from."""
    chapter = next(chapters)
    for point in POINTS:
        _dies_at(point, chapter)
    survivor = chapter.start()
    try:
        assert first_decision_s(survivor) < DECIDES_WITHIN_S
        before = chapter.writes()
        until(lambda: len(chapter.writes()) > len(before), what="the next order")
    finally:
        survivor.kill()
    chapter.is_whole()


def _dies_at(point: str, chapter: Chapter) -> None:
    # What the models know is saved when they have learnt something; the settings for the refit at each start.
    dying = chapter.start(failpoint=f"{point}:{1 if point == 'in_save' else 2}")
    assert dying.died() == -signal.SIGKILL, point
    assert MARK in dying.text, point
    chapter.is_whole()


def test_row_24_killed_in_a_rename_the_next_start_finishes_it(chapters: Iterator[Chapter]) -> None:
    """A damaged file was set aside, and the new one is not there yet."""
    chapter = next(chapters)
    first = chapter.start()
    until(lambda: len(chapter.writes()) >= 1)
    first.kill()
    held = chapter.world.cluster.replicas("llm", "chat")
    for file in (chapter.database, chapter.database.with_name(f"{FILE_NAME}-wal")):
        file.write_bytes(b"\xff" * file.stat().st_size)
    dying = chapter.start(failpoint="in_rename:1")
    assert dying.died() == -signal.SIGKILL
    assert MARK in dying.text
    assert not chapter.database.exists()
    survivor = chapter.start()
    try:
        until(lambda: survivor.ready)
        assert chapter.world.cluster.replicas("llm", "chat") >= held
    finally:
        survivor.kill()
    with closing(sqlite3.connect(chapter.database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


_PROMOTION = """
import sys
import failpoints
from pathlib import Path
from forecaster import registry
from policy_cases import NOON
failpoints.in_rename(failpoints.dies(1))
registry.promote(Path(sys.argv[1]), "holt-winters", sys.argv[2], now=NOON)
"""


def test_row_24_killed_in_a_promotion_the_live_model_is_the_old_one_or_the_new(tmp_path: Path) -> None:
    span = registry.DataSpan(start=NOON - timedelta(days=7), end=NOON, series=1)
    key = SeriesKey(workload="llm/chat", signal="demand_rps")
    old, new = (
        registry.save(
            tmp_path,
            "holt-winters",
            holt_winters_bytes({key: Smoothing(level=level, trend=0.0, season=0.1, damping=0.9)}),
            span=span,
            seed=7,
            report={},
        ).name
        for level in (0.3, 0.4)
    )
    registry.promote(tmp_path, "holt-winters", old, now=NOON)
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    child = subprocess.run(
        [sys.executable, "-c", _PROMOTION, str(tmp_path), new], env=here, capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert registry.live_version(tmp_path, "holt-winters") == old
    assert registry.load(tmp_path, "holt-winters").model_id == f"holt-winters@{old}"
    registry.promote(tmp_path, "holt-winters", new, now=NOON)
    assert registry.live_version(tmp_path, "holt-winters") == new


_CHECKPOINTS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("CREATE TABLE IF NOT EXISTS ballast (id INTEGER PRIMARY KEY, body BLOB)")
for number in range(1000):
    db.execute("BEGIN")
    db.executemany("INSERT OR REPLACE INTO ballast VALUES (?, randomblob(4000))", [(n,) for n in range(400)])
    db.execute("COMMIT")
    print("now", flush=True)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"""


def test_row_24_killed_in_a_checkpoint_the_file_is_whole(chapters: Iterator[Chapter]) -> None:
    chapter = next(chapters)
    life = chapter.start()
    until(lambda: len(chapter.writes()) >= 2)
    assert life.stop()[0] == 0
    for nth in range(1, 6):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHECKPOINTS, str(chapter.database)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(nth):
            child.stdout.readline()
        time.sleep(0.0005 * nth)
        child.kill()
        child.communicate()
        chapter.is_whole()


def test_row_24_killed_at_any_moment_again_and_again(chapters: Iterator[Chapter]) -> None:
    """Each life goes on from the one before, and ends where chance says: while it starts, between two ticks, in one."""
    chance = random.Random(24)
    slowest_s = 0.0
    for first in range(0, KILLS, A_CHAPTER):
        chapter = next(chapters)
        for _ in range(min(A_CHAPTER, KILLS - first)):
            with_point = chance.random() < 0.3
            point = f"{chance.choice(POINTS[:-1])}:{chance.randint(1, 3)}" if with_point else None
            process = chapter.start(failpoint=point)
            try:
                if point is None:
                    if chance.random() < 0.5:
                        slowest_s = max(slowest_s, first_decision_s(process))
                    time.sleep(chance.uniform(0.0, 1.0))
                    process.child.kill()
                assert process.died() == -signal.SIGKILL, process.text[-2000:]
            finally:
                process.kill()
            if chapter.database.exists():
                chapter.is_whole()
        assert len(chapter.writes()) > A_CHAPTER // 4, "the lives had something to order"
    assert slowest_s < DECIDES_WITHIN_S
    print(f"{KILLS} kills, slowest first decision {slowest_s:.2f} s")  # noqa: T201
