"""What people read, word for word, in the situations that they will ask about.

A change of wording changes tests/golden/explain/: look at the difference, then run
`PYTHONPATH=tests:. python tests/scaler/policy/test_explain_golden.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from forecaster.types import Blind, BlindReason, Known, TooFew, Zero
from policy_cases import GOOD, MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.policy.decide import WorkloadPolicy, decide_within
from scaler.policy.explain import as_text, blind_block, explain, reading_text
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.predictive import PredictiveRule
from scaler.policy.steering import CostRule
from scaler.policy.types import Mode, PolicyState, Snapshot

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "explain"
DOWN = Blind(reason=BlindReason.TARGET_DOWN, detail="up is 0 on 2 of 2 targets")
ABSENT = Blind(reason=BlindReason.NO_SERIES, detail="no series; query sum(rate(x[2m])); found labels pod, model_name")


def told(
    snapshot: Snapshot, policy: WorkloadPolicy, *, state: PolicyState | None = None, allowed: int | None = None
) -> str:
    decision, after = decide_within(snapshot, state or PolicyState(), policy, allowed, now=NOON)
    return as_text(decision, explain(decision, snapshot, policy, after)).removesuffix("\n")


RAMP = a_forecast(30.0, spread_rps=6.0, later_rps={4: 70.0})
BUSY = a_snapshot(rps=20.0, desired=3, p95_s=0.6, waiting=2.0, forecasts=(RAMP,))
QUIET = a_snapshot(rps=10.0, desired=8, p95_s=TooFew(count=12), forecasts=(a_forecast(12.0),))
SLO = a_policy(slo_s=1.2, most=12)

SITUATIONS: dict[str, Callable[[], str]] = {
    "out-for-the-forecast": lambda: told(BUSY, SLO),
    "out-in-observe-mode": lambda: told(BUSY, replace(SLO, mode=Mode.OBSERVE)),
    "out-cut-by-the-budget": lambda: told(BUSY, SLO, allowed=4),
    "at-the-maximum": lambda: told(replace(BUSY), a_policy(most=3)),
    "holds-not-calm-yet": lambda: told(QUIET, SLO, state=replace(settled(QUIET, SLO), calm_since=NOON - 2 * MINUTE)),
    "in-by-half": lambda: told(QUIET, SLO, state=settled(QUIET, SLO)),
    "holds-re-warming": lambda: told(QUIET, SLO, state=settled(QUIET, SLO, minutes=2)),
    "blind": lambda: told(a_snapshot(rps=DOWN, desired=4, p95_s=DOWN), SLO, state=replace(settled(BUSY, SLO), own=None)),
    "no-answer-for-the-workload": lambda: told(replace(BUSY, classes=(), forecasts=()), SLO),
    "replicas-unreadable": lambda: told(replace(BUSY, replicas=Blind(reason=BlindReason.FORBIDDEN)), SLO),
    "hands-off": lambda: told(a_snapshot(rps=5.0, desired=0), SLO),
    "without-trust": lambda: told(
        a_snapshot(rps=30.0, desired=4, forecasts=(RAMP,), quality=replace(GOOD, coverage_95=0.8)), SLO
    ),
    "latency-fires": lambda: told(
        a_snapshot(rps=41.0, desired=5, p95_s=3.0, waiting=40.0),
        SLO,
        state=settled(a_snapshot(rps=41.0, desired=5, p95_s=3.0, waiting=40.0), SLO, minutes=4),
    ),
    "stuck-without-gpus": lambda: told(
        a_snapshot(rps=90.0, desired=6, ready=3, unschedulable=2, failed=1),
        SLO,
        state=replace(settled(BUSY, SLO), own=None, unschedulable_since=NOON - 11 * MINUTE),
    ),
    "forecast-switched-off": lambda: told(BUSY, replace(SLO, predictive=PredictiveRule(enabled=False))),
    "target-from-costs": lambda: told(BUSY, replace(SLO, cost=CostRule(missed_minute=4.0, gpu_minute=0.05))),
    "target-cut": lambda: told(
        BUSY,
        replace(SLO, profile=replace(SLO.profile, gpus=8), cost=CostRule(missed_minute=1.0, gpu_minute=0.05)),
    ),
    "holds-for-the-survivors": lambda: told(
        replace(QUIET, requests_waiting=Known(value=9000.0)), SLO, state=settled(QUIET, SLO)
    ),
    "holds-after-a-scale-in": lambda: told(
        QUIET, SLO, state=replace(settled(QUIET, SLO), last_scale_in_at=NOON - 4 * MINUTE)
    ),
    "slo-of-its-class": lambda: told(
        BUSY, replace(SLO, latency=LatencyRule(slos=(Slo(e2e_p95_s=9.0), Slo(request_class="default", e2e_p95_s=0.8))))
    ),
    "blind-block": lambda: blind_block("llm/chat", ABSENT, lasted=timedelta(seconds=250), holding=6),
    "blind-block-bare": lambda: blind_block("llm/chat", Blind(reason=BlindReason.TIMEOUT)),
    "blind-block-told-more": lambda: blind_block(
        "llm/chat", DOWN, lasted=timedelta(minutes=5), holding=1, query="up{}", way_out="check the scrape target"
    ),
    "readings": lambda: "\n".join(
        reading_text(each, "rps")
        for each in (Known(value=12.5, age_s=8), Zero(evidence="target up, counter flat"), TooFew(count=3), DOWN, Blind(reason=BlindReason.STALE))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_says(name: str) -> None:
    assert SITUATIONS[name]().removesuffix("\n") == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").removesuffix(
        "\n"
    )


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, situation in SITUATIONS.items():
        (GOLDEN / f"{name}.txt").write_text(situation().removesuffix("\n") + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(SITUATIONS)} texts in {GOLDEN}\n")
