"""When a lease may be taken, when it must be renewed, and until when its holder may write.

What holds whatever happens, in whole runs with three contenders, is in `tests/faults/test_leadership.py`.
"""

from __future__ import annotations

import pytest

from scaler.adapters.election import (
    LONGEST_DURATION_S,
    ElectionRule,
    Held,
    Standing,
    Step,
    next_step,
    saw,
    unsure,
    won,
)

RULE = ElectionRule(identity="me")  # 15 s, 10 s, 2 s
OURS = Held(holder="me", version="7", duration_s=15.0, ever_held=True)
THEIRS = Held(holder="you", version="7", duration_s=15.0, ever_held=True)
GIVEN_BACK = Held(holder="", version="7", duration_s=15.0, ever_held=True)
NEW = Held(holder="", version="7", duration_s=15.0, ever_held=False)
MISSING = Held()


def seen(held: Held, *, since_s: float = 0.0, until_s: float | None = None) -> Standing:
    return Standing(held=held, current=True, seen_since_s=since_s, until_s=until_s)


@pytest.mark.parametrize(
    ("standing", "now_s", "step"),
    [
        pytest.param(Standing(), 0.0, Step.READ, id="nothing known yet"),
        pytest.param(unsure(seen(THEIRS)), 99.0, Step.READ, id="what was seen may be old"),
        pytest.param(seen(MISSING), 0.0, Step.CREATE, id="missing: made, which makes nobody its holder"),
        pytest.param(seen(MISSING), 99.0, Step.CREATE, id="missing for long: the same"),
        pytest.param(seen(NEW), 14.9, Step.WAIT, id="never held, somebody may lead by one that was deleted"),
        pytest.param(seen(NEW), 15.0, Step.TAKE, id="never held, for a whole duration"),
        pytest.param(seen(GIVEN_BACK), 0.0, Step.TAKE, id="given back: at once"),
        pytest.param(seen(THEIRS), 14.9, Step.WAIT, id="held by another, seen unchanged for less than its duration"),
        pytest.param(seen(THEIRS), 15.0, Step.TAKE, id="held by another, run out by our clock"),
        pytest.param(seen(THEIRS, since_s=10.0), 24.9, Step.WAIT, id="counted from when this version was seen"),
        pytest.param(
            seen(Held(holder="you", version="7", duration_s=60.0, ever_held=True)),
            59.9,
            Step.WAIT,
            id="the holder's duration counts if it is longer than ours",
        ),
        pytest.param(
            seen(Held(holder="you", version="7", duration_s=5.0, ever_held=True)),
            14.9,
            Step.WAIT,
            id="and ours if it is shorter",
        ),
        pytest.param(
            seen(Held(holder="you", version="7", duration_s=1e9, ever_held=True)),
            LONGEST_DURATION_S,
            Step.TAKE,
            id="a duration that nobody can set is waited for as long as the longest",
        ),
        pytest.param(
            seen(OURS), 99.0, Step.RENEW, id="ours by a write whose answer was lost: renewed before it counts"
        ),
        pytest.param(seen(OURS, until_s=10.0), 9.9, Step.RENEW, id="leading"),
        pytest.param(seen(OURS, until_s=10.0), 10.0, Step.LOST, id="leading until now and no longer"),
        pytest.param(unsure(seen(OURS, until_s=10.0)), 10.0, Step.LOST, id="no answer until the claim's end"),
        pytest.param(unsure(seen(OURS, until_s=10.0)), 9.0, Step.READ, id="no answer, and time for another try"),
        pytest.param(seen(THEIRS, until_s=10.0), 1.0, Step.LOST, id="another one has it while we lead"),
        pytest.param(seen(MISSING, until_s=10.0), 1.0, Step.LOST, id="somebody deleted it under us"),
        pytest.param(seen(GIVEN_BACK, until_s=10.0), 1.0, Step.LOST, id="somebody took our name out"),
    ],
)
def test_next_step(standing: Standing, now_s: float, step: Step) -> None:
    assert next_step(standing, RULE, now_s=now_s) is step


def test_a_version_keeps_its_age_and_a_new_one_begins_anew() -> None:
    first = saw(Standing(), THEIRS, received_s=100.0)
    again = saw(unsure(first), THEIRS, received_s=114.0)
    assert (again.seen_since_s, again.current) == (100.0, True)
    renewed = saw(again, Held(holder="you", version="8", duration_s=15.0, ever_held=True), received_s=115.0)
    assert next_step(renewed, RULE, now_s=129.9) is Step.WAIT


def test_a_claim_lasts_from_when_the_request_left() -> None:
    standing = won(Standing(), RULE, OURS, sent_s=100.0, received_s=103.0)
    assert standing.until_s == 110.0
    assert standing.left_s(now_s=104.0) == 6.0
    assert not standing.leads(now_s=110.0)


def test_an_answer_that_took_longer_than_the_claim_makes_no_leader() -> None:
    standing = won(Standing(), RULE, OURS, sent_s=100.0, received_s=111.0)
    assert standing.until_s is None
    assert next_step(standing, RULE, now_s=111.0) is Step.RENEW


def test_of_a_leader_it_ends_the_claim() -> None:
    led = won(Standing(), RULE, OURS, sent_s=100.0, received_s=100.0)
    late = won(led, RULE, OURS, sent_s=101.0, received_s=140.0)
    assert next_step(late, RULE, now_s=140.0) is Step.LOST


@pytest.mark.parametrize("rule", [RULE, ElectionRule(identity="me", duration_s=60.0, renew_deadline_s=48.0)])
def test_a_write_is_over_before_anybody_else_may_lead(rule: ElectionRule) -> None:
    """Sent at the last moment that the kernel's timer leaves, half of a write's time for the way and half for the server."""
    assert rule.renew_deadline_s < rule.gone_s
    assert rule.gone_s + 2 * rule.write_limit_s < rule.duration_s
