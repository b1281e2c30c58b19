"""The hourly look at histograms' edges: the whole fleet is asked for, never in one answer, and known all or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from forecaster.errors import SourceTimeout
from forecaster.sources.catalogue import Use
from forecaster.sources.prometheus import SignalCheck
from forecaster.sources.selector import WorkloadSelector
from policy_cases import NOON, a_policy
from scaler.daemon.upkeep import EDGES_EVERY, EDGES_TOGETHER, Upkeep
from scaler.loop import Fleet
from scaler.policy.latency import LatencyRule, Slo

NAMES = tuple(f"llm/m{n}" for n in range(2 * EDGES_TOGETHER + 1))
ASKED_FOR = LatencyRule(slos=(Slo(e2e_p95_s=1.7),))


@dataclass
class Histograms:
    """A source whose every latency has the same edges; the `fails`-th answer of all never comes."""

    fails: int = 0
    asked: list[int] = field(default_factory=list)

    def check(self, selectors: Sequence[WorkloadSelector], *, now: datetime) -> tuple[SignalCheck, ...]:
        self.asked.append(len(selectors))
        if len(self.asked) == self.fails:
            raise SourceTimeout("no complete answer within 8 s")
        of_each = [("e2e_p95_s", (0.5, 1.5)), ("requests_running", ())]
        return tuple(
            SignalCheck(workload=one.workload, signal=signal, use=Use.RULES, metric="m", edges_s=tuple(edges))
            for one in selectors
            for signal, edges in of_each
        )


@dataclass
class Round:
    """What decides from now on."""

    fleet: Fleet
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def use(self, fleet: Fleet, notes: Mapping[str, tuple[str, ...]]) -> None:
        self.fleet, self.notes = fleet, notes


class Log:
    """Not looked at."""

    def warning(self, event: str, **keys: Any) -> None: ...

    info = error = critical = warning


def upkeep_of(source: Histograms) -> tuple[Upkeep, Round]:
    policies = tuple(replace(a_policy(workload=name), latency=ASKED_FOR) for name in NAMES)
    deciding = Round(Fleet(workloads=policies))
    parts: Any = SimpleNamespace(
        selectors=tuple(WorkloadSelector.for_workload(*name.split("/")) for name in NAMES),
        source=source,
        round=deciding,
        log=Log(),
        telemetry=SimpleNamespace(job_failed=lambda job: None),
        refit=None,
        store=None,
        give_way=lambda: None,
    )
    return Upkeep(parts), deciding


def edges_used(deciding: Round) -> set[float | None]:
    return {policy.latency.slos[0].e2e_p95_s for policy in deciding.fleet.workloads}


def test_a_fleet_is_asked_for_in_portions() -> None:
    source = Histograms()
    upkeep, deciding = upkeep_of(source)
    upkeep.judge_edges(now=NOON)
    assert source.asked == [EDGES_TOGETHER, EDGES_TOGETHER, 1]
    assert edges_used(deciding) == {1.5}
    assert set(deciding.notes) == set(NAMES)


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_portion_that_fails_leaves_all_as_it_was_and_a_minute_later_all_are_asked(fails: int) -> None:
    source = Histograms(fails=fails)
    upkeep, deciding = upkeep_of(source)
    upkeep.judge_edges(now=NOON)
    assert edges_used(deciding) == {1.7}
    upkeep.judge_edges(now=NOON + timedelta(minutes=1))
    assert edges_used(deciding) == {1.5}
    upkeep.judge_edges(now=NOON + EDGES_EVERY)
    assert len(source.asked) == fails + 3, "and then only every hour"
