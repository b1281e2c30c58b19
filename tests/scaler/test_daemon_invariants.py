"""The promises are checked again after each tick: the decision code never breaks one, a defect that did is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon_cases import a_tick, tampered
from forecaster.types import Blind, BlindReason
from policy_cases import a_policy, a_snapshot, settled
from scaler.adapters.invariants import violations
from scaler.loop import TickReport
from scaler.policy.types import Mode
from scaler.ports import OutcomeKind

CALM = a_snapshot(rps=5.0, desired=4)
LONG = settled(CALM, a_policy())
RATES = st.one_of(st.just(Blind(reason=BlindReason.TIMEOUT)), st.floats(allow_nan=True, allow_infinity=True))


OUTCOMES = {
    Mode.OBSERVE: OutcomeKind.OBSERVED,
    Mode.ACTIVE: OutcomeKind.SCALED,
    Mode.FLOOR: OutcomeKind.SCALED,
    Mode.PUBLISH: OutcomeKind.PUBLISHED,
}


@given(rate=RATES, desired=st.integers(0, 40), mode=st.sampled_from(Mode), known=st.booleans())
def test_the_decision_code_keeps_them_whatever_it_reads(rate, desired, mode, known):  # type: ignore[no-untyped-def]
    policy = a_policy(mode=mode, least=1, most=8)
    outcome = OUTCOMES[mode]
    report = a_tick(a_snapshot(rps=rate, desired=desired), policy, state=LONG if known else None, outcome=outcome)
    if not report.records[0].changes:
        report = replace(report, outcomes={})
    assert violations(report, mutating_requests=0) == ()


def granted(report: TickReport, replicas: int) -> TickReport:
    """The same tick under a budget that allowed so many."""
    return replace(report, records=(replace(report.records[0], grant=replicas),))


@pytest.mark.parametrize(
    ("report", "mutating", "invariant"),
    [
        pytest.param(
            tampered(a_tick(CALM, a_policy(most=8), state=LONG, outcome=OutcomeKind.SCALED), target=9),
            1,
            "I1",
            id="over max",
        ),
        pytest.param(
            tampered(a_tick(CALM, a_policy(least=2), state=LONG, outcome=OutcomeKind.SCALED), target=1),
            1,
            "I1",
            id="under min",
        ),
        pytest.param(
            tampered(a_tick(CALM, a_policy(), state=LONG, outcome=OutcomeKind.SCALED), target=5.5),
            1,
            "I1",
            id="half a pod",
        ),
        pytest.param(tampered(a_tick(CALM, a_policy()), target=3), 0, "I2", id="in while re-warming"),
        pytest.param(
            tampered(
                a_tick(a_snapshot(rps=Blind(reason=BlindReason.STALE), desired=4), a_policy(), state=LONG), target=3
            ),
            0,
            "I2",
            id="in while blind",
        ),
        pytest.param(
            tampered(a_tick(a_snapshot(rps=35.0, desired=4), a_policy(), state=LONG), target=3),
            0,
            "I3",
            id="under a rule",
        ),
        pytest.param(tampered(a_tick(CALM, a_policy(), state=LONG), target=1), 0, "I4", id="more than half at once"),
        pytest.param(tampered(a_tick(CALM, a_policy(), state=LONG), target=9), 0, "I4", id="a leap out"),
        pytest.param(
            granted(tampered(a_tick(CALM, a_policy(), state=LONG), target=6), 5), 0, "I5", id="over the grant"
        ),
        pytest.param(
            a_tick(CALM, a_policy(mode=Mode.OBSERVE), state=LONG, outcome=OutcomeKind.SCALED),
            0,
            "I8",
            id="observe scaled",
        ),
        pytest.param(a_tick(CALM, a_policy(mode=Mode.OBSERVE), state=LONG), 1, "I8", id="observe sent a write"),
        pytest.param(replace(a_tick(CALM, a_policy(), state=LONG), leads=False), 1, "I6", id="a standby sent a write"),
    ],
)
def test_a_broken_promise_is_found(report, mutating, invariant):  # type: ignore[no-untyped-def]
    found = [each.invariant for each in violations(report, mutating_requests=mutating)]
    assert invariant in found
    assert found in ([invariant], ["I1", "I4"]), "a leap out of the bounds is a leap as well"
