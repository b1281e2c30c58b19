"""The measured start time.

Properties: an unfinished start never lowers the estimate, and neither does waiting for it longer; the order of the
starts changes nothing; of finished starts alone a longer one never gives a shorter time; whatever happens the estimate
stays between the floor and an hour with the node wait; settled times move by tens of seconds and not to and fro.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.policy.decide import decide
from scaler.policy.lead_time import (
    DEAD_BAND,
    FLOOR,
    LEAST_STARTS,
    LONGEST,
    MOST_LIFT,
    MOST_STARTS,
    SHORTAGE,
    WINDOW,
    Start,
    estimate,
    in_short,
    newest,
    percentile,
    settle,
)
from scaler.policy.types import LeadSource, LeadTime

FIVE_MINUTES = timedelta(minutes=5)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def a_start(took_s: float, *, node_s: float = 0.0, image_s: float = 0.0, ago: timedelta = timedelta(hours=1)) -> Start:
    """A start that became Ready `ago`, `took_s` after its pod was made."""
    ready_at = NOON - ago
    created_at = ready_at - seconds(took_s)
    return Start(
        created_at=created_at,
        seen_at=ready_at,
        scheduled_at=created_at + seconds(node_s),
        running_at=created_at + seconds(node_s + image_s),
        ready_at=ready_at,
    )


def waiting(age_s: float, *, placed_after_s: float | None = 0.0, restarted: bool = False) -> Start:
    """A start that is not over after `age_s`, without a node if `placed_after_s` is None."""
    created_at = NOON - seconds(age_s)
    placed_at = None if placed_after_s is None else created_at + seconds(placed_after_s)
    return Start(created_at=created_at, seen_at=NOON, scheduled_at=placed_at, restarted=restarted)


def found_s(finished: list[Start], unfinished: list[Start] = [], configured: timedelta = FIVE_MINUTES) -> float:  # noqa: B006
    return estimate(finished, unfinished, configured=configured).seconds


@pytest.mark.parametrize(
    ("took_s", "waits_s", "expected_s"),
    [
        pytest.param([], [], 300, id="nothing measured: as configured"),
        pytest.param([120] * 4, [], 300, id="four starts are too few to shorten it"),
        pytest.param([120] * 5, [], 120, id="five are enough"),
        pytest.param([400], [], 400, id="one that took longer than configured lengthens it"),
        pytest.param([3000], [], 600, id="by twice at most: it may have been an odd one"),
        pytest.param([100] * 18 + [900] * 2, [], 100, id="two of twenty may be odd"),
        pytest.param([100] * 17 + [900] * 3, [], 900, id="three of twenty are what starts take"),
        pytest.param([100, 110, 120, 130, 140, 150, 160, 170, 180, 190], [], 180, id="of ten the ninth"),
        pytest.param([100] * 10, [40], 100, id="a young start says nothing"),
        pytest.param([*range(100, 200, 10)], [50] * 50, 180, id="nor do fifty: of the ten it still is the ninth"),
        pytest.param([100] * 10, [0] * 50, 100, id="nor do fifty that were ordered just now"),
        pytest.param([100] * 10, [130], 100, id="one slow start of eleven may be odd"),
        pytest.param([100] * 10, [130, 150], 150, id="two of twelve that last longer than all others lift it"),
        pytest.param([100] * 10, [800, 900], 200, id="by twice at most: they may hang"),
        pytest.param([50] * 9 + [300], [100] * 5, 100, id="what is left open weighs on what came later, twice at most"),
        pytest.param([], [200], 300, id="a first start within what is configured"),
        pytest.param([], [420], 420, id="a first start that lasts longer than configured"),
    ],
)
def test_the_start_time(took_s: list[float], waits_s: list[float], expected_s: float) -> None:
    assert found_s([a_start(each) for each in took_s], [waiting(each) for each in waits_s]) == expected_s


@pytest.mark.parametrize(
    ("start", "expected_s"),
    [
        pytest.param(waiting(4000, placed_after_s=None), 600.0, id="no GPU for an hour is a shortage"),
        pytest.param(waiting(240, placed_after_s=None), 240.0, id="a node on its way"),
        pytest.param(waiting(4000, placed_after_s=3900), 700.0, id="a GPU at last after an hour: what follows counts"),
        pytest.param(a_start(4000, node_s=3800), 800.0, id="and so it does of one that became Ready"),
    ],
)
def test_a_wait_for_a_node_counts_up_to_ten_minutes(start: Start, expected_s: float) -> None:
    assert start.total_s == expected_s
    assert start.counts


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(waiting(7200), id="hangs for two hours"),
        pytest.param(waiting(200, restarted=True), id="a container has ended: perhaps a crash loop"),
    ],
)
def test_what_is_no_start_never_moves_it(odd: Start) -> None:
    usual = [a_start(100)] * 8
    assert found_s(usual, [odd] * 10) == found_s(usual) == 100
    assert found_s([], [odd] * 10) == 300


def test_a_pod_that_turned_ready_anew_days_later_is_no_start() -> None:
    assert newest([a_start(86_400)], now=NOON) == ()


def test_only_the_last_starts_of_the_last_fortnight_count() -> None:
    long_ago = [a_start(900, ago=WINDOW + seconds(1))] * 30
    before = [a_start(500, ago=timedelta(days=2))] * 30
    lately = [a_start(100, ago=timedelta(minutes=n)) for n in range(MOST_STARTS)]
    assert newest([*lately, *before, *long_ago], now=NOON) == tuple(reversed(lately))


@pytest.mark.parametrize(
    ("others_s", "own_s", "expected"),
    [
        pytest.param([400] * 5, [], (400.0, LeadSource.SAME_GPUS, 5), id="others take longer than configured"),
        pytest.param([100] * 20, [], (300.0, LeadSource.CONFIGURED, 0), id="others never shorten it"),
        pytest.param([400] * 4, [], (300.0, LeadSource.CONFIGURED, 0), id="four of them are too few"),
        pytest.param([400] * 20, [100] * 5, (100.0, LeadSource.OWN, 5), id="own starts end it"),
        pytest.param([400] * 20, [100] * 4, (400.0, LeadSource.SAME_GPUS, 20), id="too few own ones do not"),
    ],
)
def test_a_workload_without_starts_looks_at_others_on_the_same_gpus(
    others_s: list[float], own_s: list[float], expected: tuple[float, LeadSource, int]
) -> None:
    own, others = ([a_start(each) for each in them] for them in (own_s, others_s))
    found = estimate(own, (), configured=FIVE_MINUTES, same_gpus=others)
    assert (found.seconds, found.source, found.starts) == expected


def test_the_parts_are_those_of_the_start_at_the_percentile_and_add_up() -> None:
    starts = [a_start(100 + n) for n in range(15)] + [a_start(250, node_s=40, image_s=70), a_start(400)]
    found = estimate(starts, (), configured=FIVE_MINUTES)
    assert (found.node_wait_s, found.image_s, found.load_s) == (40.0, 70.0, 140.0)
    assert in_short(found, configured=FIVE_MINUTES) == (
        "P90 of 17 starts; node wait 40s, image 1m10s, load 2m20s; configured 5m"
    )


@pytest.mark.parametrize(
    ("lead", "text"),
    [
        pytest.param(LeadTime(seconds=300, starts=2), "as configured, 2 of 5 starts measured", id="configured"),
        pytest.param(
            estimate([], [waiting(420)], configured=FIVE_MINUTES),
            "as configured, 0 of 5 starts measured; lifted by slower ones; node wait 0s; configured 5m",
            id="lifted",
        ),
        pytest.param(
            LeadTime(seconds=400, starts=9, source=LeadSource.SAME_GPUS),
            "P90 of 9 starts of all workloads on the same GPUs; configured 5m",
            id="same GPUs",
        ),
    ],
)
def test_where_it_comes_from_in_words(lead: LeadTime, text: str) -> None:
    assert in_short(lead, configured=FIVE_MINUTES) == text


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────────

durations = st.integers(0, 3600).map(float)
some_finished = st.lists(durations.map(a_start), max_size=25)
some_waiting = st.lists(durations.map(waiting), max_size=25)
enough = st.lists(durations.map(a_start), min_size=LEAST_STARTS, max_size=MOST_STARTS)


@given(finished=some_finished, unfinished=some_waiting, one_more=durations)
def test_an_unfinished_start_never_lowers_it(finished: list[Start], unfinished: list[Start], one_more: float) -> None:
    assert found_s(finished, [*unfinished, waiting(one_more)]) >= found_s(finished, unfinished)


@given(finished=some_finished, ages_s=st.lists(durations, min_size=1, max_size=20), more_s=durations)
def test_waiting_longer_never_lowers_it(finished: list[Start], ages_s: list[float], more_s: float) -> None:
    later = [waiting(min(3600.0, age_s + more_s)) for age_s in ages_s]
    assert found_s(finished, later) >= found_s(finished, [waiting(age_s) for age_s in ages_s])


@given(finished=some_finished, unfinished=some_waiting, odd=st.integers(0, 30), seed=st.randoms(use_true_random=False))
def test_order_and_crash_loops_change_nothing(
    finished: list[Start], unfinished: list[Start], odd: int, seed: object
) -> None:
    shuffled, waits = list(finished), [*unfinished, *[waiting(500, restarted=True)] * odd]
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    seed.shuffle(waits)  # type: ignore[attr-defined]
    assert found_s(shuffled, waits) == found_s(finished, unfinished)
    assert newest(shuffled, now=NOON) == newest(finished, now=NOON)


@given(took_s=st.lists(durations, min_size=LEAST_STARTS, max_size=20), which=st.integers(0, 19), more_s=durations)
def test_a_longer_start_never_gives_a_shorter_time(took_s: list[float], which: int, more_s: float) -> None:
    longer = list(took_s)
    longer[which % len(took_s)] = min(3600.0, longer[which % len(took_s)] + more_s)
    assert found_s([a_start(each) for each in longer]) >= found_s([a_start(each) for each in took_s])


@given(took_s=st.lists(durations, min_size=1, max_size=20))
def test_without_unfinished_starts_it_is_the_nearest_rank(took_s: list[float]) -> None:
    rank = -(-9 * len(took_s) // 10)
    assert percentile([a_start(each) for each in took_s], ()).total_s == sorted(took_s)[rank - 1]


@given(finished=enough, unfinished=some_waiting)
def test_no_hanging_pod_lifts_it_by_more_than_twice(finished: list[Start], unfinished: list[Start]) -> None:
    without = percentile(finished, ()).total_s
    assert without <= found_s(finished, unfinished) <= MOST_LIFT * without
    assert without <= (LONGEST + SHORTAGE).total_seconds()


@given(found=st.floats(0.0, 4000.0), band=st.lists(st.floats(0.0, 1.0), max_size=30))
def test_a_settled_time_is_safe_and_does_not_go_to_and_fro(found: float, band: list[float]) -> None:
    held = settle(LeadTime(seconds=found, source=LeadSource.OWN), None)
    assert max(found, FLOOR.total_seconds()) <= held.seconds + 1e-6
    assert held.seconds <= max(found, FLOOR.total_seconds()) + 10.0
    assert held.seconds % 10.0 == 0.0
    now = held
    for share in band:  # whatever is found above 90 % of what is held, it stays
        within = held.seconds * (1.0 - DEAD_BAND * (1.0 - 1e-6) * share)
        now = settle(LeadTime(seconds=within, source=LeadSource.OWN), now)
        assert now.seconds == held.seconds


def test_a_much_shorter_time_and_any_longer_one_are_taken_up_at_once() -> None:
    held = settle(LeadTime(seconds=243, source=LeadSource.OWN), None)
    assert held.seconds == 250
    assert settle(LeadTime(seconds=221, source=LeadSource.OWN), held).seconds == 250
    assert settle(LeadTime(seconds=219, source=LeadSource.OWN), held).seconds == 220
    assert settle(LeadTime(seconds=251, source=LeadSource.OWN), held).seconds == 260


def test_what_is_configured_is_taken_to_the_second() -> None:
    assert settle(LeadTime(seconds=45.5), LeadTime(seconds=50, source=LeadSource.OWN)).seconds == 45.5


@given(before_s=st.floats(30.0, 1800.0), after_s=st.floats(30.0, 1800.0), rps=st.floats(1.0, 500.0))
def test_another_lead_time_alone_moves_no_replica(before_s: float, after_s: float, rps: float) -> None:
    policy = a_policy()
    asked = decide(
        a_snapshot(rps=rps, desired=1, forecasts=(a_forecast(rps),)), settled(a_snapshot(), policy), policy, now=NOON
    )
    scale = max(each.want for each in asked[0].proposals)
    steady = a_snapshot(rps=rps, desired=scale, forecasts=(a_forecast(rps),), lead_s=before_s)
    state = settled(steady, policy, minutes=60)
    moved = a_snapshot(rps=rps, desired=scale, forecasts=(a_forecast(rps),), lead_s=after_s)
    decision, _ = decide(moved, state, policy, now=NOON)
    assert decision.target == scale
