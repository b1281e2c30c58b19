"""The latency rule: trigger, size, silence after an order."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from forecaster.types import Blind, BlindReason, Known, Reading, TooFew
from policy_cases import MINUTE, NOON, a_snapshot
from scaler.policy import latency
from scaler.policy.capacity import CapacityProfile, ClassCapacity, single_rate
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.types import At, Breach, Doubt, LatencyState, Proposal, Reason, Snapshot

RULE = LatencyRule(slos=(Slo(e2e_p95_s=1.2),))
TEN = single_rate("x", 10.0)
BLIND = Blind(reason=BlindReason.NO_SERIES)


def after(
    snapshots: list[Snapshot],
    *,
    rule: LatencyRule = RULE,
    state: LatencyState | None = None,
    profile: CapacityProfile = TEN,
    start: datetime = NOON,
) -> tuple[Proposal | None, LatencyState]:
    """The rule's opinion at the last of these minutes."""
    proposal, state = None, state or LatencyState()
    for minute, snapshot in enumerate(snapshots):
        proposal, state = latency.propose(snapshot, rule, profile, state, now=start + minute * MINUTE)
    return proposal, state


@pytest.mark.parametrize(
    ("snapshot", "want", "reason"),
    [
        pytest.param(a_snapshot(rps=47.0, desired=3, p95_s=9.0), 5, Reason.P95_BREACH, id="size by load"),
        pytest.param(
            a_snapshot(rps=47.0, desired=5, p95_s=9.0), 6, Reason.PROFILE_DOUBTED, id="load fits: one more, flagged"
        ),
        pytest.param(
            a_snapshot(rps=47.0, desired=5, ready=4, p95_s=9.0),
            6,
            Reason.P95_BREACH,
            id="load does not fit what is Ready",
        ),
        pytest.param(
            a_snapshot(rps=40.0, desired=4, p95_s=9.0, waiting=900.0),
            5,
            Reason.P95_BREACH,
            id="900 waiting / 180 s = 5 rps more",
        ),
        pytest.param(a_snapshot(rps=40.0, desired=3, p95_s=9.0), 4, Reason.P95_BREACH, id="an unread queue is empty"),
        pytest.param(
            a_snapshot(rps=37.0, desired=4, ready=3, starting=1, p95_s=9.0),
            4,
            Reason.P95_BREACH,
            id="one pod under way",
        ),
        pytest.param(
            a_snapshot(rps=37.0, desired=4, ready=3, unschedulable=1, p95_s=9.0),
            4,
            Reason.P95_BREACH,
            id="one pod without GPU",
        ),
        pytest.param(
            a_snapshot(rps=BLIND, desired=4, p95_s=9.0), 5, Reason.P95_BREACH, id="blind demand may still add one"
        ),
        pytest.param(
            a_snapshot(rps=47.0, desired=4, ready=2, starting=2, p95_s=9.0),
            5,
            Reason.P95_BREACH,
            id="larger size beats pods under way",
        ),
        pytest.param(
            a_snapshot(rps=37.0, desired=4, ready=2, starting=2, p95_s=9.0),
            4,
            Reason.P95_BREACH,
            id="pods under way are the remedy",
        ),
        pytest.param(
            a_snapshot(rps=37.0, desired=4, ready=2, unschedulable=2, p95_s=9.0),
            4,
            Reason.P95_BREACH,
            id="pods without GPU are not doubled",
        ),
    ],
)
def test_size_when_it_fires(snapshot: Snapshot, want: int, reason: Reason) -> None:
    proposal, _ = after([snapshot] * 5)
    assert proposal is not None
    assert (proposal.rule, proposal.want, proposal.keep, proposal.reason) == ("latency", want, want, reason)


def test_two_minutes_and_not_a_second_less() -> None:
    bad = a_snapshot(rps=50.0, p95_s=1.21)
    state = latency.propose(bad, RULE, TEN, LatencyState(), now=NOON)[1]
    early, _ = latency.propose(bad, RULE, TEN, state, now=NOON + timedelta(seconds=119))
    due, _ = latency.propose(bad, RULE, TEN, state, now=NOON + timedelta(seconds=120))
    assert early is not None
    assert due is not None
    assert (early.reason, due.reason) == (Reason.P95_WATCH, Reason.P95_BREACH)


@pytest.mark.parametrize(
    "interruption",
    [
        pytest.param(Known(value=1.2), id="exactly at the SLO is fine"),
        pytest.param(Known(value=0.1), id="fine"),
        pytest.param(TooFew(count=12), id="too few requests"),
        pytest.param(BLIND, id="blind"),
        pytest.param(Known(value=float("nan")), id="NaN"),
    ],
)
def test_a_break_starts_the_two_minutes_again(interruption: Reading) -> None:
    bad = a_snapshot(rps=50.0, p95_s=9.0)
    proposal, state = after([bad, bad, a_snapshot(rps=50.0, p95_s=interruption), bad])
    assert proposal is not None
    assert proposal.reason is Reason.P95_WATCH
    assert state.breaches[0].since == NOON + 3 * MINUTE


def test_silent_while_nothing_is_over_its_slo() -> None:
    assert after([a_snapshot(rps=500.0, p95_s=0.3)] * 5) == (None, LatencyState())
    assert after([a_snapshot(rps=500.0, p95_s=99.0)] * 5, rule=LatencyRule())[0] is None, "no SLO, no rule"


def test_a_watch_blocks_release_and_orders_nothing() -> None:
    proposal, _ = after([a_snapshot(rps=5.0, desired=6, p95_s=9.0)])
    assert proposal is not None
    assert (proposal.want, proposal.keep, proposal.rule) == (0, 6, "latency")
    assert proposal.detail == "default/e2e_p95_s above SLO"
    rule = LatencyRule(slos=(Slo(e2e_p95_s=1.0, ttft_p95_s=1.0),))
    both, _ = after([a_snapshot(rps=5.0, p95_s=9.0, ttft_s=Known(value=2.0))], rule=rule)
    assert both is not None
    assert both.detail == "default/e2e_p95_s, default/ttft_p95_s above SLO"


@pytest.mark.parametrize(
    ("slo", "readings"),
    [
        pytest.param(Slo(ttft_p95_s=0.5), {"ttft_s": Known(value=0.6)}, id="time to first token"),
        pytest.param(Slo(queue_time_p95_s=0.3), {"queue_s": Known(value=0.4)}, id="queue time"),
        pytest.param(Slo(itl_p95_s=0.1), {"itl_s": Known(value=0.11)}, id="between tokens"),
        pytest.param(
            Slo(e2e_p95_s=9.0, queue_time_p95_s=0.3), {"p95_s": 1.0, "queue_s": Known(value=0.4)}, id="any of several"
        ),
    ],
)
def test_other_signals_trigger_too(slo: Slo, readings: dict[str, Reading]) -> None:
    proposal, _ = after([a_snapshot(rps=50.0, **readings)] * 3, rule=LatencyRule(slos=(slo,)))  # type: ignore[arg-type]
    assert proposal is not None
    assert proposal.reason is Reason.P95_BREACH


def test_each_class_has_its_own_slo_and_its_own_two_minutes() -> None:
    rule = LatencyRule(slos=(Slo(e2e_p95_s=1.0), Slo(request_class="video", e2e_p95_s=5.0)))
    both = a_snapshot(rps={"text": 10.0, "video": 10.0}, p95_s=3.0)
    proposal, state = after([both] * 3, rule=rule)
    assert [breach.request_class for breach in state.breaches] == ["text"]
    assert proposal is not None
    assert proposal.detail.startswith("text/e2e_p95_s above SLO since 12:00:00")
    alternating = [
        a_snapshot(rps={"text": 10.0}, p95_s=3.0),
        a_snapshot(rps={"gui": 10.0}, p95_s=3.0),
    ] * 3
    assert after(alternating, rule=rule)[0].reason is Reason.P95_WATCH  # type: ignore[union-attr]


def ordered(replicas: int) -> LatencyState:
    since_long = Breach(request_class="default", signal="e2e_p95_s", since=NOON - timedelta(hours=1))
    return LatencyState(ordered=At(at=NOON, replicas=replicas), breaches=(since_long,))


@pytest.mark.parametrize(
    ("minutes", "snapshot", "reason"),
    [
        pytest.param(
            1, a_snapshot(rps=90.0, desired=5, ready=3, starting=2, p95_s=9.0), Reason.P95_PENDING, id="still starting"
        ),
        pytest.param(
            1,
            a_snapshot(rps=90.0, desired=5, ready=5, p95_s=9.0),
            Reason.P95_WATCH,
            id="Ready: one rate window of rest",
        ),
        pytest.param(
            1,
            a_snapshot(rps=90.0, desired=5, ready=3, starting=1, failed=1, p95_s=9.0),
            Reason.P95_PENDING,
            id="some still start",
        ),
        pytest.param(
            1,
            a_snapshot(rps=90.0, desired=5, ready=3, p95_s=9.0),
            Reason.P95_PENDING,
            id="pods not created yet",
        ),
        pytest.param(
            1,
            a_snapshot(rps=90.0, desired=5, ready=4, failed=1, p95_s=9.0),
            Reason.P95_WATCH,
            id="one failed",
        ),
        pytest.param(1, a_snapshot(rps=90.0, desired=5, ready=3, failed=2, p95_s=9.0), Reason.P95_WATCH, id="failed"),
        pytest.param(
            6,
            a_snapshot(rps=90.0, desired=5, ready=3, starting=2, p95_s=9.0),
            Reason.P95_PENDING,
            id="twice the start is not over",
        ),
        pytest.param(
            7,
            a_snapshot(rps=90.0, desired=5, ready=3, starting=2, p95_s=9.0),
            Reason.P95_WATCH,
            id="given up after 2 * 3 min + 1 min",
        ),
    ],
)
def test_waits_for_what_it_ordered(minutes: int, snapshot: Snapshot, reason: Reason) -> None:
    proposal, state = latency.propose(snapshot, RULE, TEN, ordered(5), now=NOON + minutes * MINUTE)
    assert proposal is not None
    assert proposal.reason is reason
    assert (proposal.want, proposal.keep) == ((5, 5) if reason is Reason.P95_PENDING else (0, 5))
    settled = reason is Reason.P95_WATCH
    assert (state.ordered, state.settled_at) == (
        (None, NOON + minutes * MINUTE) if settled else (At(at=NOON, replicas=5), None)
    )
    assert proposal.rule == "latency"
    assert proposal.detail == ("waiting for 5 Ready" if reason is Reason.P95_PENDING else "default/e2e_p95_s above SLO")


def test_after_an_order_one_full_rate_window_passes_before_it_fires_again() -> None:
    ready = a_snapshot(rps=90.0, desired=5, p95_s=9.0)
    state = LatencyState(settled_at=NOON)
    reasons = []
    for minute in range(4):
        proposal, state = latency.propose(ready, RULE, TEN, state, now=NOON + minute * MINUTE)
        assert proposal is not None
        reasons.append(proposal.reason)
    assert reasons == [Reason.P95_WATCH, Reason.P95_WATCH, Reason.P95_BREACH, Reason.P95_BREACH]


def test_unknown_replicas_leave_everything_as_it_is() -> None:
    snapshot = replace(a_snapshot(rps=90.0, p95_s=9.0), replicas=BLIND)
    assert latency.propose(snapshot, RULE, TEN, ordered(5), now=NOON) == (None, ordered(5))


@pytest.mark.parametrize(
    ("snapshot", "rule", "names"),
    [
        pytest.param(a_snapshot(p95_s=BLIND), RULE, ("default/e2e_p95_s",), id="blind signal with a target"),
        pytest.param(a_snapshot(p95_s=BLIND), LatencyRule(), (), id="no target, nobody misses it"),
        pytest.param(a_snapshot(p95_s=TooFew(count=1)), RULE, (), id="too few is not blind"),
        pytest.param(a_snapshot(p95_s=1.0), RULE, (), id="known"),
        pytest.param(a_snapshot(), RULE, (), id="not read: judged for another class"),
        pytest.param(
            a_snapshot(itl_s=BLIND), LatencyRule(slos=(Slo(itl_p95_s=0.1),)), ("default/itl_p95_s",), id="tokens"
        ),
    ],
)
def test_names_its_blind_signals(snapshot: Snapshot, rule: LatencyRule, names: tuple[str, ...]) -> None:
    assert latency.blind_classes(snapshot, rule) == names


def test_backlog_counts_in_the_mix_of_classes() -> None:
    profile = CapacityProfile(
        name="x", classes=(ClassCapacity(name="text", max_rps=10.0), ClassCapacity(name="video", max_rps=1.0))
    )
    snapshot = a_snapshot(rps={"text": 5.0, "video": 0.5}, waiting=990.0, desired=1, p95_s=9.0)
    proposal, _ = after([snapshot] * 3, profile=profile)
    assert proposal is not None
    assert proposal.want == 2, "load 1, and 5.5 rps of backlog in the same mix is another 1"


@pytest.mark.parametrize("field", latency.SIGNALS)
def test_refuses_an_slo_of_no_time(field: str) -> None:
    with pytest.raises(ValueError, match=rf"latency\.slos\[\]\.{field} must be above 0 seconds, got 0"):
        Slo(**{field: 0.0})


def test_a_queue_that_drains_is_no_reason_to_order() -> None:
    """Load fits since the new pods arrived, P95 still shows the old queue: four minutes of watching, then doubt."""
    short, enough = (a_snapshot(rps=40.0, desired=6, ready=ready, p95_s=9.0) for ready in (3, 6))
    reasons = []
    proposal, state = after([short] * 3)
    for minute in range(6):
        proposal, state = latency.propose(enough, RULE, TEN, state, now=NOON + (3 + minute) * MINUTE)
        assert proposal is not None
        reasons.append(proposal.reason)
    assert reasons == [Reason.P95_WATCH] * 4 + [Reason.PROFILE_DOUBTED] * 2
    _, again = latency.propose(short, RULE, TEN, state, now=NOON + 9 * MINUTE)
    assert again.fits_since is None


def test_says_what_the_load_needs() -> None:
    proposal, _ = after([a_snapshot(rps=47.0, desired=3, p95_s=9.0)] * 3)
    assert proposal is not None
    assert proposal.detail == "default/e2e_p95_s above SLO since 12:00:00; load and backlog need 5"
    proposal, _ = after([a_snapshot(rps=BLIND, desired=3, p95_s=9.0)] * 3)
    assert proposal is not None
    assert proposal.detail == "default/e2e_p95_s above SLO since 12:00:00; unknown load"


TOKENS = LatencyRule(slos=(Slo(itl_p95_s=0.1),))


def apart(itl_s: float, *, rps: float = 35.0, desired: int = 4) -> Snapshot:
    """A fleet with tokens so far apart, by the profile large enough for 40 requests a second."""
    return a_snapshot(rps=rps, desired=desired, itl_s=Known(value=itl_s))


def bad_pod() -> LatencyState:
    """One of four replicas is slow: the rule ordered a fifth for a load of 3.5, and it came."""
    _, state = after([apart(0.05)] * 5 + [apart(0.2)] * 3, rule=TOKENS)
    assert state.doubt == Doubt(at=NOON + 7 * MINUTE, load=3.5, replicas=5)
    return state


def test_tokens_too_far_apart_at_a_load_that_fits_call_for_one_more_after_the_hold() -> None:
    """No queue has to drain first: the load has fitted all along, so that two minutes are enough."""
    early, _ = after([apart(0.05)] * 5 + [apart(0.2)] * 2, rule=TOKENS)
    due, _ = after([apart(0.05)] * 5 + [apart(0.2)] * 3, rule=TOKENS)
    assert early is not None
    assert due is not None
    assert (early.reason, early.want, early.keep) == (Reason.P95_WATCH, 0, 4)
    assert (due.reason, due.want, due.keep) == (Reason.PROFILE_DOUBTED, 5, 5)


@pytest.mark.parametrize(
    ("rps", "keep"),
    [
        pytest.param(35.0, 5, id="the same load"),
        pytest.param(60.0, 5, id="more of it orders nothing: that is for those who look at load"),
        pytest.param(28.1, 5, id="5 * 2.81 / 3.5 = 4.01"),
        pytest.param(28.0, 4, id="5 * 2.8 / 3.5 = 4"),
        pytest.param(21.0, 3, id="three where the profile has 2.1"),
        pytest.param(0.0, 0, id="no load"),
    ],
)
def test_what_kept_the_slo_is_not_released_by_the_profile_that_was_refuted(rps: float, keep: int) -> None:
    state = replace(bad_pod(), ordered=None, breaches=())
    proposal, _ = latency.propose(apart(0.05, rps=rps, desired=5), TOKENS, TEN, state, now=NOON + 20 * MINUTE)
    assert proposal == Proposal(
        rule="latency", want=0, keep=keep, reason=Reason.DOUBT_REMEMBERED, detail="5 for a load of 3.50 at 12:07"
    )


def test_a_doubt_is_forgotten_after_its_time_and_while_nothing_can_be_said_says_nothing() -> None:
    state = replace(bad_pod(), ordered=None, breaches=())
    fine, then = apart(0.05, desired=5), NOON + 7 * MINUTE + TOKENS.remember_doubt
    assert latency.propose(fine, TOKENS, TEN, state, now=then - timedelta(seconds=1))[0] is not None
    assert latency.propose(fine, TOKENS, TEN, state, now=then) == (None, replace(state, doubt=None, fits_since=NOON))
    unknown = a_snapshot(rps=BLIND, desired=5)
    assert latency.propose(unknown, TOKENS, TEN, state, now=then - MINUTE)[0] is None


def test_a_later_doubt_replaces_the_first_and_an_order_for_load_does_not() -> None:
    """At the load of 20 replicas nothing fits, so the profile is not in doubt; at 4.5 of 5 it is once more."""
    state, later = replace(bad_pod(), ordered=None, breaches=()), NOON + 20 * MINUTE
    proposal, short = after([apart(0.2, rps=200.0, desired=5)] * 3, rule=TOKENS, state=state, start=later)
    assert proposal is not None
    assert (proposal.reason, short.doubt) == (Reason.P95_BREACH, state.doubt)
    _, again = after([apart(0.2, rps=45.0, desired=5)] * 3, rule=TOKENS, state=state, start=later)
    assert again.doubt == Doubt(at=later + 2 * MINUTE, load=4.5, replicas=6)


@pytest.mark.parametrize(
    ("desired", "want", "detail"),
    [
        pytest.param(7, 8, "load and backlog need 4", id="up to twice what the load needs"),
        pytest.param(8, 8, "load and backlog need 4, and 2 times that did not help", id="and no further"),
        pytest.param(11, 11, "load and backlog need 4, and 2 times that did not help", id="nor less than is there"),
    ],
)
def test_where_replicas_do_not_help_no_more_are_ordered(desired: int, want: int, detail: str) -> None:
    """Tokens of an idle replica may be too far apart for the SLO: the maximum would not cure that."""
    proposal, _ = after([apart(0.2, desired=desired)] * 5, rule=TOKENS)
    assert proposal is not None
    assert (proposal.want, proposal.keep, proposal.reason) == (want, want, Reason.PROFILE_DOUBTED)
    assert proposal.detail == f"default/itl_p95_s above SLO since 12:00:00; {detail}"
