"""Policies on a trace: what is scored, what each policy knows before, and that the product decides by its own loop.

Property: whatever comes later changes no decision, no forecast and no replica before it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import registry
from forecaster.errors import SeriesError
from forecaster.models.seasonal import LastValue
from forecaster.trace import Trace
from forecaster.types import Series
from scaler.simulate.policies import PLANS
from scaler.simulate.trace import PRODUCT, REACTIVE, Setting, UnknownPolicyError, known_policies, simulate

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
TEN, DAY = timedelta(minutes=10), timedelta(days=1)
MEMBERS = (LastValue(),)
SHIPPED = registry.members(step=TEN).forecasters


def a_trace(days: float, *, step: timedelta = TEN) -> Trace:
    """A daily wave between 20 and 100 a second, with noise from a seed."""
    bins = int(timedelta(days=days) / step)
    wave = 60.0 - 40.0 * np.cos(2.0 * np.pi * np.arange(bins) * (step / DAY))
    noise = np.random.default_rng(5).normal(0.0, 3.0, bins)
    return Trace(name="wave", column="requests", series=Series(start=MONDAY, step=step, values=wave + noise))


def test_the_last_four_days_are_scored_after_at_least_one_of_history() -> None:
    run = simulate(a_trace(6), ["hpa"], Setting())
    assert (run.start, run.end) == (MONDAY + 2 * DAY, MONDAY + 6 * DAY)
    short = simulate(a_trace(2.5), ["hpa"], Setting())
    assert (short.start, short.end) == (MONDAY + DAY, MONDAY + 2.5 * DAY)


@pytest.mark.parametrize(
    ("setting", "first", "bins"),
    [
        pytest.param(Setting(score_from=MONDAY + DAY, score_to=MONDAY + 2 * DAY), 144, 144, id="the end is exclusive"),
        pytest.param(
            Setting(score_from=MONDAY + TEN / 2, score_to=MONDAY + 2.5 * TEN), 1, 2, id="bins that begin inside"
        ),
        pytest.param(
            Setting(score_from=MONDAY - DAY, score_to=MONDAY + 99 * DAY), 0, 864, id="as far as the trace goes"
        ),
        pytest.param(Setting(score_to=MONDAY + 3 * DAY), 144, 288, id="an end alone"),
    ],
)
def test_windows(setting: Setting, first: int, bins: int) -> None:
    run = simulate(a_trace(6), ["oracle-instant"], setting)
    assert run.start == MONDAY + first * TEN
    assert run.scores["oracle-instant"].scored_bins == bins


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        pytest.param(Setting(score_from=MONDAY + 9 * DAY), "nothing to score", id="after the trace"),
        pytest.param(Setting(score_to=MONDAY - DAY), "after the end of the window", id="before the trace"),
        pytest.param(Setting(score_to=MONDAY + DAY / 2), "more than one day.*--score-from", id="no history"),
    ],
)
def test_windows_without_a_bin_are_refused(setting: Setting, complaint: str) -> None:
    with pytest.raises(SeriesError, match=complaint):
        simulate(a_trace(6), ["hpa"], setting)


def test_weeks_as_bins_need_a_window() -> None:
    weeks = Trace(name="w", column="n", series=Series(start=MONDAY, step=7 * DAY, values=np.ones(20)))
    with pytest.raises(SeriesError, match="no bin of 7 days, 0:00:00 begins in the last four days; name others"):
        simulate(weeks, ["hpa"], Setting())
    assert simulate(weeks, ["hpa"], Setting(score_from=MONDAY + 70 * DAY)).bins == 10


def test_capacity_is_that_of_the_scored_window_or_what_is_said() -> None:
    trace = a_trace(3)
    trace.series.values[:144] *= 10.0
    run = simulate(trace, ["static-peak"], Setting())
    assert run.capacity_rps == pytest.approx(np.quantile(trace.series.values[144:], 0.999) / 16)
    assert set(run.courses["static-peak"].serving.tolist()) == {16}
    assert simulate(trace, ["hpa"], Setting(capacity_rps=7.0)).capacity_rps == 7.0
    silent = Trace(name="z", column="requests", series=Series(start=MONDAY, step=TEN, values=np.zeros(432)))
    with pytest.raises(SeriesError, match="--capacity-rps"):
        simulate(silent, ["hpa"], Setting())


@pytest.mark.parametrize(
    ("setting", "highest", "complaint"),
    [
        pytest.param(
            Setting(score_from=MONDAY),
            1e300,
            r"1e\+300 a second, which is over 100,000 replicas",
            id="a mistyped count",
        ),
        pytest.param(Setting(capacity_rps=1e-9), 1.0, "another unit", id="another unit"),
        pytest.param(Setting(peak_replicas=1_000_000), 1.0, "--peak-replicas too high", id="too many replicas"),
        pytest.param(Setting(), math.nan, "none of the 576 bins to score is known", id="nothing known"),
        pytest.param(Setting(capacity_rps=5.0), math.nan, "none of the 576 bins to score is known", id="even if sized"),
    ],
)
def test_what_would_be_counted_for_ever_is_refused(setting: Setting, highest: float, complaint: str) -> None:
    """Replicas are counted one by one: a single count of 1e300 once hung the lab."""
    trace = a_trace(8)
    trace.series.values[-1] = highest
    if math.isnan(highest):
        trace.series.values[144:] = math.nan
    with pytest.raises(SeriesError, match=complaint):
        simulate(trace, ["hpa"], setting)


def test_a_run_says_what_was_played_where_bins_are_wide_or_unknown() -> None:
    trace = a_trace(3)
    trace.series.values[200:210] = np.nan
    document = simulate(trace, ["hpa"], Setting(cold_start=timedelta(seconds=30))).as_json()
    told = {name: document[name] for name in ("cold_start_s", "cold_start_played_s", "bins", "unknown_bins")}
    assert told == {"cold_start_s": 30.0, "cold_start_played_s": 600.0, "bins": 288, "unknown_bins": 10}


def test_missing_bins_are_not_scored_and_nobody_stumbles() -> None:
    trace = a_trace(3)
    trace.series.values[200:210] = np.nan
    names = [each.removesuffix(":u") for each in known_policies(MEMBERS)]
    run = simulate(trace, names, Setting(), members=MEMBERS)
    assert {name: each.scored_bins for name, each in run.scores.items()} == dict.fromkeys(names, 278)
    assert all(course.billed.min() >= 1 for course in run.courses.values())
    assert run.scores["oracle-instant"].gpu_ratio == 1.0
    assert run.scores["oracle"].missed_bins == 0
    assert all(each.gpu_ratio >= 1.0 for each in run.scores.values() if not each.missed_bins)


def test_a_start_takes_the_bins_that_it_reaches_into() -> None:
    values = np.full(432, 10.0)
    values[300:] = 30.0
    trace = Trace(name="step", column="requests", series=Series(start=MONDAY, step=TEN, values=values))
    missed = {
        seconds: simulate(trace, ["hpa-plain:1"], Setting(cold_start=timedelta(seconds=seconds), capacity_rps=10.0))
        .scores["hpa-plain:1"]
        .missed_bins
        for seconds in (0, 180, 600, 601)
    }
    assert missed == {0: 1, 180: 2, 600: 2, 601: 3}, "the bin that shows the step, and those of the start"


def test_the_product_lives_through_a_day_before_it_is_scored() -> None:
    """A miss on the day before the window is seen by the product, and by nobody that starts with the window."""
    calm, eventful = a_trace(4), a_trace(4)
    eventful.series.values[150:160] *= 8.0
    setting = Setting(score_from=MONDAY + 2 * DAY, capacity_rps=6.0)
    names = ["headstart:last-value", "hpa", "kpa"]
    one, two = (simulate(each, names, setting, members=MEMBERS).courses for each in (calm, eventful))
    assert one["headstart:last-value"].billed.tolist() != two["headstart:last-value"].billed.tolist()
    for name in ("hpa", "kpa"):
        assert one[name].billed.tolist() == two[name].billed.tolist()


def test_the_forecast_is_what_sets_the_product_apart_from_reactive() -> None:
    run = simulate(a_trace(4), ["headstart", "reactive"], Setting(), members=MEMBERS)
    assert run.courses["headstart"].billed.tolist() != run.courses["reactive"].billed.tolist()


NAMES = tuple(
    each.removesuffix(":u")
    for each in known_policies(SHIPPED)
    if each.removesuffix(":u") not in PLANS and not each.startswith(f"{PRODUCT}:")
)


@settings(max_examples=6, deadline=None)
@given(
    after=st.integers(5, 130),
    surprise=st.sampled_from(("five times", "nothing", "unknown", "huge", "shuffled")),
    cold_start_s=st.sampled_from((0, 180, 1800)),
)
def test_no_policy_knows_the_future(after: int, surprise: str, cold_start_s: int) -> None:
    """Whatever comes after a bin, nothing that was decided before it, forecast before it or served before it differs.

    Every rival of the catalogue, and the product with all its shipped forecasters, asked ahead in blocks as ever.
    """
    calm, other = a_trace(3), a_trace(3)
    values = other.series.values[144 + after :]
    values[:] = {
        "five times": values * 5.0,
        "nothing": values * 0.0,
        "unknown": np.full(values.size, np.nan),
        "huge": np.full(values.size, 1e5),
        "shuffled": np.random.default_rng(after).permutation(values),
    }[surprise]
    setting = Setting(
        score_from=MONDAY + DAY,
        score_to=MONDAY + 2 * DAY,
        capacity_rps=6.0,
        cold_start=timedelta(seconds=cold_start_s),
    )
    names = (*NAMES, "hpa:0.5:900s", "llmd:mean", "dynamo:constant")
    one, two = (simulate(each, names, setting, members=SHIPPED, recorded=True) for each in (calm, other))
    for name in names:
        for array in ("billed", "serving"):
            mine, theirs = (getattr(each.courses[name], array)[: after + 1].tolist() for each in (one, two))
            assert mine == theirs, (name, array)
    for name in (PRODUCT, REACTIVE):
        # The decision after the last common bin is the last that may not differ.
        assert one.tracks[name].decisions[:after] == two.tracks[name].decisions[:after], name
        for array in ("median", "order"):
            mine, theirs = (getattr(each.tracks[name], array)[:after] for each in (one, two))
            assert np.array_equal(mine, theirs, equal_nan=True), (name, array)


def test_equal_arguments_give_an_equal_run() -> None:
    one, two = (simulate(a_trace(3), ["headstart", "dynamo"], Setting(), members=MEMBERS).as_json() for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("headstrat", "Did you mean 'headstart'", id="typo"),
        pytest.param("hpaa:0.7", "Did you mean 'hpa'", id="typo before an argument"),
        pytest.param("headstart:last-valu", "Did you mean 'headstart:last-value'", id="typo of a model"),
        pytest.param("reactive:0.7", "There are headstart, ", id="an argument too many"),
        pytest.param("oracle:1", "There are headstart, ", id="of a plan"),
        pytest.param("headstart:", "There are headstart, ", id="an argument that is none"),
        pytest.param("headstart:target=1%:target=2%", "two of one kind", id="two targets"),
        pytest.param(
            "headstart:target=1%:last-valu", "Did you mean 'headstart:last-value'", id="a typo beside a target"
        ),
        pytest.param("hpa:2", r"must lie in \(0, 1\]", id="argument out of range"),
        pytest.param("", "There are headstart, ", id="nothing"),
    ],
)
def test_a_policy_that_is_not_there_is_told_what_there_is(name: str, complaint: str) -> None:
    with pytest.raises(UnknownPolicyError, match=complaint):
        simulate(a_trace(3), ["hpa", name], Setting(), members=MEMBERS)
