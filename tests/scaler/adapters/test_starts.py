"""Which sightings of pods make a start, and the story of a start time on a cluster: measured, kept, planned with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from forecaster.types import Blind, BlindReason, Known
from kube_double import KubeDouble
from policy_cases import MINUTE, NOON, a_policy
from scaler.adapters.forecasts import ForecastBoard
from scaler.adapters.kubernetes import (
    ApiConnection,
    Kubeconfig,
    KubernetesCluster,
    PodPhase,
    PodStart,
    TargetRef,
    WorkloadPods,
)
from scaler.adapters.ledger import NoJournal
from scaler.adapters.starts import StartLedger, StartsUnreadable
from scaler.adapters.targets import KubernetesTargets
from scaler.loop import Fleet, Ports, tick
from scaler.policy.types import ClassReadings, LeadSource, LeadTime, Mode, PolicyState, ReplicaState
from scaler.ports import WorkloadSignals

CHAT, EMBED = "llm/chat", "llm/embed"
CONFIGURED = {CHAT: timedelta(minutes=5)}


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def a_pod(
    uid: str,
    *,
    age_s: float,
    ready_after_s: float | None = None,
    phase: PodPhase | None = None,
    now: datetime = NOON,
    restarts: int = 0,
    accelerator: str = "nvidia.com/gpu:1",
) -> PodStart:
    """A pod as it is `age_s` after it was made; Ready, where it is, since `ready_after_s`."""
    created_at = now - seconds(age_s)
    return PodStart(
        name=uid,
        uid=uid,
        created_at=created_at,
        phase=phase or (PodPhase.STARTING if ready_after_s is None else PodPhase.READY),
        scheduled_at=created_at,
        ready_at=None if ready_after_s is None else created_at + seconds(ready_after_s),
        restarts=restarts,
        accelerator=accelerator,
    )


def sighting(*pods: PodStart, now: datetime = NOON) -> WorkloadPods:
    return WorkloadPods(replicas=ReplicaState(desired=len(pods), ready=0), starts=pods, read_at=now)


def measured(ledger: StartLedger, *, now: datetime = NOON) -> LeadTime:
    return ledger.latest(CONFIGURED, now=now)[CHAT]


def five(took_s: float) -> list[PodStart]:
    return [a_pod(f"old-{n}", age_s=3600, ready_after_s=took_s) for n in range(5)]


def test_pods_that_were_ready_before_we_looked_tell_their_start() -> None:
    ledger = StartLedger()
    ledger.note({CHAT: sighting(*five(118))})
    assert (measured(ledger).seconds, measured(ledger).starts) == (120.0, 5)


def test_a_pod_counts_once_however_often_it_is_seen_and_turns_ready() -> None:
    ledger = StartLedger()
    for minute in range(60):
        now = NOON + minute * MINUTE
        flapping = a_pod("flaps", age_s=600 + 60 * minute, ready_after_s=590 + 60 * minute, now=now)
        if minute % 2:
            flapping = replace(flapping, phase=PodPhase.STARTING, ready_at=None)
        ledger.note({CHAT: sighting(*five(118), flapping, now=now)})
    lead = measured(ledger, now=NOON + 59 * MINUTE)
    assert (lead.starts, lead.unfinished) == (6, 0)


@pytest.mark.parametrize(
    ("seen", "starts"),
    [
        pytest.param([a_pod("x", age_s=50, phase=PodPhase.FAILED)], 5, id="failed"),
        pytest.param(
            [a_pod("x", age_s=50, phase=PodPhase.FAILED), a_pod("x", age_s=400, ready_after_s=390)],
            5,
            id="failed, and Ready in the end",
        ),
        pytest.param([a_pod("x", age_s=1000, ready_after_s=900, restarts=1)], 5, id="restarted before we looked"),
        pytest.param(
            [a_pod("x", age_s=60, restarts=1), a_pod("x", age_s=140, ready_after_s=130, restarts=1)],
            6,
            id="one restart on a way that was watched",
        ),
        pytest.param([a_pod("x", age_s=60), a_pod("x", age_s=140, phase=PodPhase.GONE)], 5, id="taken away"),
        pytest.param([a_pod("x", age_s=60), a_pod("x", age_s=140, ready_after_s=130)], 6, id="watched until Ready"),
    ],
)
def test_what_counts_as_a_start(seen: list[PodStart], starts: int) -> None:
    ledger = StartLedger()
    for pod in seen:
        ledger.note({CHAT: sighting(*five(118), pod)})
    assert measured(ledger).starts == starts


def test_a_crash_loop_of_a_whole_day_does_not_move_the_start_time() -> None:
    ledger = StartLedger()
    ledger.note({CHAT: sighting(*five(118))})
    before = measured(ledger)
    for minute in range(1440):
        now = NOON + minute * MINUTE
        phase = PodPhase.FAILED if minute % 5 else PodPhase.STARTING
        loops = [
            a_pod(f"loop-{minute // 300}-{n}", age_s=60 * (minute % 300), phase=phase, restarts=minute % 300, now=now)
            for n in range(10)
        ]
        ledger.note({CHAT: sighting(*five(118), *loops, now=now)})
        after = measured(ledger, now=now)
        # Until its first restart a new pod of the loop is a start like any other, and a young one says nothing.
        assert replace(after, unfinished=0) == before


def test_a_start_that_outlasts_the_others_lifts_the_time_until_it_is_over() -> None:
    ledger = StartLedger()
    for minute, expected_s in enumerate((120, 120, 120, 180, 240, 240)):  # 2 × 118 s at most
        now = NOON + minute * MINUTE
        ledger.note({CHAT: sighting(*five(118), a_pod("slow", age_s=60 * minute, now=now), now=now)})
        lead = measured(ledger, now=now)
        assert (lead.seconds, lead.lifted) == (expected_s, minute >= 2)
    ledger.note({CHAT: sighting(*five(118), now=NOON + 6 * MINUTE)})
    lead = measured(ledger, now=NOON + 6 * MINUTE)
    assert (lead.seconds, lead.lifted) == (120.0, False), "it was taken away: nobody knows how long it would have taken"


def test_while_the_cluster_cannot_be_read_nothing_changes() -> None:
    ledger = StartLedger()
    ledger.note({CHAT: sighting(*five(118), a_pod("slow", age_s=60))})
    before = measured(ledger)
    ledger.note({CHAT: Blind(reason=BlindReason.TIMEOUT)})
    assert measured(ledger, now=NOON + 30 * MINUTE) is before


def test_it_goes_on_after_a_restart_and_forgets_who_left_the_fleet() -> None:
    ledger, next_life = StartLedger(), StartLedger()
    ledger.note({CHAT: sighting(*five(118)), EMBED: sighting(*five(400))})
    next_life.restore(ledger.saved())
    assert measured(next_life) == measured(ledger)
    next_life.note({CHAT: sighting(*five(118))})
    assert measured(next_life).starts == 5, "the pods that are still there count once"
    assert next_life.latest({EMBED: MINUTE}, now=NOON)[EMBED].source is LeadSource.CONFIGURED


@pytest.mark.parametrize("stored", [b"", b"[]", b'{"llm/chat": {"finished": 3}}', b"\x00\xff"])
def test_damaged_memory_is_refused_and_changes_nothing(stored: bytes) -> None:
    ledger = StartLedger()
    ledger.note({CHAT: sighting(*five(118))})
    with pytest.raises(StartsUnreadable, match="faults"):
        ledger.restore(stored)
    assert measured(ledger).starts == 5


def test_a_workload_without_starts_learns_from_others_on_the_same_gpus() -> None:
    ledger = StartLedger()
    slow = [replace(pod, accelerator="nvidia.com/gpu:8 H100") for pod in five(700)]
    fast = [replace(pod, accelerator="nvidia.com/gpu:1") for pod in five(100)]
    new = a_pod("new", age_s=10, accelerator="nvidia.com/gpu:8 H100")
    ledger.note({CHAT: sighting(new), EMBED: sighting(*slow), "llm/small": sighting(*fast)})
    configured = dict.fromkeys((CHAT, EMBED, "llm/small"), timedelta(minutes=5))
    lead = ledger.latest(configured, now=NOON)[CHAT]
    assert (lead.seconds, lead.source, lead.starts) == (700.0, LeadSource.SAME_GPUS, 5)


# ── On a cluster ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Demand:
    """The loop's signals: a demand that the test sets."""

    rps: float = 5.0

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {CHAT: WorkloadSignals(classes=(ClassReadings(demand_rps=Known(value=self.rps)),))}


@dataclass
class Stage:
    """A cluster with one workload, and the loop over it."""

    cluster: KubeDouble
    ledger: StartLedger
    ports: Ports
    demand: Demand = field(default_factory=Demand)
    states: Mapping[str, PolicyState] = field(default_factory=dict)

    def tick(self, mode: Mode = Mode.ACTIVE) -> LeadTime:
        fleet = Fleet(workloads=(a_policy(mode=mode),))
        report = tick(fleet, self.states, replace(self.ports, signals=self.demand), now=self.cluster.now)
        self.states = report.states
        snapshot = report.records[0].snapshot
        assert snapshot.lead_time is not None
        assert snapshot.lead_time_s == snapshot.lead_time.seconds
        return snapshot.lead_time


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with KubeDouble(gpus=8) as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=1)
        cluster.behave("llm", "chat", start_time_s=250, image_s=70)
        connection = ApiConnection(Kubeconfig(path=cluster.kubeconfig(tmp_path)))
        ledger, target = (
            StartLedger(),
            TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat"),
        )
        targets = KubernetesTargets(KubernetesCluster(connection), {CHAT: target}, on_pods=ledger.note)
        ports = Ports(
            signals=Demand(), forecasts=ForecastBoard(), targets=targets, journal=NoJournal(), lead_times=ledger
        )
        yield Stage(cluster=cluster, ledger=ledger, ports=ports)
        connection.close()


def test_a_surge_teaches_how_long_starts_take(stage: Stage) -> None:
    assert stage.tick().source is LeadSource.CONFIGURED
    stage.demand.rps = 48.0
    leads = []
    for _ in range(10):
        stage.cluster.advance(60)
        leads.append(stage.tick())
    assert [lead.seconds for lead in leads[:3]] == [300.0] * 3, "as configured, a start takes no longer than that"
    last = leads[-1]
    assert (last.source, last.starts, last.unfinished) == (LeadSource.OWN, 7, 0)
    assert (last.seconds, last.node_wait_s, last.image_s, last.load_s) == (250.0, 0.0, 70.0, 180.0)


def test_pods_that_crash_teach_nothing(stage: Stage) -> None:
    stage.cluster.advance(300)
    stage.tick()
    stage.cluster.behave("llm", "chat", crashing=True)
    stage.demand.rps = 48.0
    leads = []
    for _ in range(15):
        stage.cluster.advance(60)
        leads.append(stage.tick())
    assert {lead.seconds for lead in leads} == {300.0}
    assert leads[-1].starts == 1


def test_a_wait_for_gpus_is_told_apart_and_bounded(stage: Stage) -> None:
    stage.cluster.set_replicas("llm", "chat", 8)
    stage.cluster.advance(300)
    assert stage.tick(Mode.OBSERVE).seconds == 250.0
    stage.cluster.set_replicas("llm", "chat", 24)
    leads = []
    for _ in range(10):
        stage.cluster.advance(60)
        leads.append(stage.tick(Mode.OBSERVE).seconds)
    assert leads == sorted(leads), "sixteen pods without a GPU outlast the eight that had one"
    assert leads[-1] == 500.0, "twice what is known, and no more"
