"""Which day a day is compared with: by its kind, from local midnight to local midnight, and never without history."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.day_kinds import Calendar, DayKind, Departure, StandIn, departures, with_reference
from forecaster.errors import SeriesError
from forecaster.models.replay import replayed
from forecaster.models.seasonal import SeasonalDelta, SeasonalNaive
from forecaster.preprocess import tail, up_to
from forecaster.types import STEP, Forecaster, Panel, SeriesKey

DAY = 1440
KEY = SeriesKey(workload="llm/chat", signal="demand_rps")
BERLIN = ZoneInfo("Europe/Berlin")
ASCENSION = date(2026, 5, 14)
"""A Thursday."""
GERMAN = Calendar(zone=BERLIN, holidays=frozenset([ASCENSION, date(2026, 4, 3), date(2026, 4, 6)]))


@pytest.mark.parametrize(
    ("day", "kind", "back"),
    [
        pytest.param(date(2026, 5, 13), DayKind.WORKING, 1, id="the Wednesday before: like Tuesday"),
        pytest.param(ASCENSION, DayKind.REST, 4, id="the holiday: like Sunday"),
        pytest.param(date(2026, 5, 15), DayKind.WORKING, 2, id="the bridge day: like Wednesday"),
        pytest.param(date(2026, 5, 16), DayKind.SATURDAY, 7, id="Saturday: like Saturday"),
        pytest.param(date(2026, 5, 17), DayKind.REST, 3, id="Sunday: like the holiday"),
        pytest.param(date(2026, 5, 18), DayKind.WORKING, 3, id="Monday: like Friday"),
        pytest.param(date(2026, 4, 7), DayKind.WORKING, 5, id="the Tuesday after Easter: like Maundy Thursday"),
        pytest.param(date(2026, 4, 6), DayKind.REST, 1, id="Easter Monday: like Easter Sunday"),
    ],
)
def test_a_day_is_like_the_last_of_its_kind(day: date, kind: DayKind, back: int) -> None:
    assert GERMAN.kind(day) is kind
    assert GERMAN.days_back(day) == back


@given(day=st.dates(date(2025, 1, 1), date(2035, 12, 31)), offsets=st.sets(st.integers(-20, 3)))
def test_what_stands_for_a_day_is_of_its_kind_or_the_day_before(day: date, offsets: set[int]) -> None:
    calendar = Calendar(zone=BERLIN, holidays=frozenset(day + timedelta(days=each) for each in offsets))
    back = calendar.days_back(day)
    assert 1 <= back <= 14
    assert back == 1 or calendar.kind(day - timedelta(days=back)) is calendar.kind(day)


def told(panel: Panel, calendar: Calendar, row: int = 0) -> Panel:
    """`panel` with one row's references taken from its own earlier bins, on a clock that doesn't change."""

    def measured(each: Departure) -> np.ndarray:
        bins = (np.arange((each.end - each.start) // panel.step)) + (each.like_start - panel.start) // panel.step
        values = np.where(bins >= 0, panel.values[row, np.maximum(bins, 0)], np.nan)
        return values[None, :]

    return with_reference(
        panel,
        [
            StandIn(rows=(row,), start=each.start, values=measured(each))
            for each in departures(calendar, start=panel.start, end=panel.end, step=panel.step)
        ],
    )


def numbered(start: datetime, days: float, *, step: timedelta = STEP) -> Panel:
    """A panel whose every bin holds its own number."""
    values = np.arange(float(timedelta(days=days) / step))[None, :]
    return Panel(keys=(KEY,), start=start, step=step, values=values)


def days_back(panel: Panel, calendar: Calendar) -> np.ndarray:
    """By bin, how many days before the bin of the next day its reference lies."""
    return 1 + (panel.values[0] - told(panel, calendar).day_before[0]) / (timedelta(days=1) / panel.step)


@pytest.mark.parametrize("step", [STEP, timedelta(minutes=10)], ids=str)
def test_references_change_at_local_midnight(step: timedelta) -> None:
    """Thursday begins at 22:00 UTC in a Berlin summer: what is compared with its first minute is Sunday's first."""
    panel = numbered(datetime(2026, 5, 9, 22, tzinfo=UTC), 6.0, step=step)  # from Sunday's midnight to Friday's end
    day = timedelta(days=1) // step
    back = np.round(days_back(panel, GERMAN))
    sunday, wednesday, thursday, friday = (number * day + (number > 0) for number in (0, 3, 4, 5))
    assert set(back[sunday : wednesday - 1]) == {1.0}, "Friday, which Monday is like, was not seen"
    assert set(back[wednesday : thursday - 1]) == {4.0}, "a day before Thursday's bins stands Sunday"
    assert set(back[thursday : friday - 1]) == {2.0}, "and before Friday's Wednesday"


def test_nothing_is_asked_beyond_what_a_forecast_looks_at() -> None:
    """On Friday at noon nobody asks for Saturday, and of Friday's own day before only up to an hour from now."""
    found = departures(GERMAN, start=datetime(2026, 5, 13, tzinfo=UTC), end=datetime(2026, 5, 15, 12, tzinfo=UTC))
    assert [each.end for each in found] == [
        datetime(2026, 5, 13, 22, tzinfo=UTC),
        datetime(2026, 5, 14, 13, tzinfo=UTC),
    ]
    assert sum((each.end - each.start for each in found), timedelta()) < timedelta(days=2)


def test_days_begin_by_the_clock_that_is_in_force_at_the_end() -> None:
    """The clocks went forward on 29 March: the panel lies on summer time, and Sunday begins at 22:00 UTC on it."""
    calendar = Calendar(zone=BERLIN, holidays=frozenset([date(2026, 3, 31)]))  # a Tuesday
    (_, tuesday, _) = departures(
        calendar, start=datetime(2026, 3, 28, 22, tzinfo=UTC), end=datetime(2026, 3, 31, 22, tzinfo=UTC)
    )
    assert tuesday.start == datetime(2026, 3, 29, 22, tzinfo=UTC)
    assert tuesday.like_start == datetime(2026, 3, 28, 22, tzinfo=UTC)


def test_what_was_measured_by_another_clock_is_read_an_hour_later() -> None:
    """Monday after the change is like Friday before it, whose noon was 11:00 UTC; by today's clock noon is 10:00."""
    calendar = Calendar(zone=BERLIN, holidays=frozenset())
    (monday,) = departures(
        calendar, start=datetime(2026, 3, 29, 10, tzinfo=UTC), end=datetime(2026, 3, 30, 10, tzinfo=UTC)
    )
    assert monday.start == datetime(2026, 3, 29, 10, tzinfo=UTC)
    assert monday.like_start == datetime(2026, 3, 27, 11, tzinfo=UTC)


def test_a_grid_that_does_not_divide_a_day_has_no_day_before() -> None:
    span = {"start": datetime(2026, 5, 10, tzinfo=UTC), "end": datetime(2026, 5, 17, tzinfo=UTC)}
    assert departures(GERMAN, **span, step=timedelta(minutes=10))
    assert not departures(GERMAN, **span, step=timedelta(minutes=7))


def test_midweek_nothing_departs() -> None:
    assert not departures(GERMAN, start=datetime(2026, 5, 5, tzinfo=UTC), end=datetime(2026, 5, 7, tzinfo=UTC))


@given(
    hours=st.integers(0, 24 * 365),
    span=st.integers(25, 24 * 14),
    zone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe"]),
)
@settings(max_examples=60, deadline=None)
def test_a_departure_lies_in_the_panel_and_is_read_before_it(hours: int, span: int, zone: str) -> None:
    end = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(hours=hours)
    start = end - timedelta(hours=span)
    calendar = Calendar(zone=ZoneInfo(zone), holidays=frozenset([date(2026, 4, 6), date(2026, 10, 26)]))
    found = departures(calendar, start=start, end=end)
    for each in found:
        assert start <= each.start < each.end <= end
        assert each.end - each.start == each.like_end - each.like_start <= timedelta(days=1)
        assert each.like_end <= each.end - timedelta(days=1) + timedelta(hours=1)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_an_unknown_reference_is_the_day_before() -> None:
    panel = numbered(datetime(2026, 5, 9, 22, tzinfo=UTC), 5.0)
    panel.values[0, 60:120] = np.nan  # an outage on Sunday
    hour = slice(3 * DAY + 60, 3 * DAY + 120)  # of Wednesday, for which Sunday would have stood
    assert np.array_equal(told(panel, GERMAN).day_before[0, hour], panel.values[0, hour])


def test_measurements_and_other_rows_are_left_alone() -> None:
    values = np.random.default_rng(1).uniform(1, 9, (2, 6 * DAY))
    keys = (KEY, SeriesKey(workload="llm/docs", signal="demand_rps"))
    kept = values.copy()
    found = told(Panel(keys=keys, start=datetime(2026, 5, 9, tzinfo=UTC), step=STEP, values=values), GERMAN, row=1)
    assert np.array_equal(found.values, kept)
    assert np.array_equal(found.day_before[0], kept[0])
    assert not np.array_equal(found.day_before[1], kept[1])


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(SeriesError, match="reference"):
        Panel(
            keys=(KEY,),
            start=datetime(2026, 5, 9, tzinfo=UTC),
            step=STEP,
            values=np.zeros((1, 5)),
            reference=np.zeros((1, 4)),
        )


# ── What it does to a forecast ────────────────────────────────────────────────────────────────────────────────


def office(days: int, *, start: datetime, holidays: frozenset[date]) -> Panel:
    """Demand that is 100 at noon of a working day and a fifth of that on others, by Berlin's clock."""
    moments = [start + minute * STEP for minute in range(days * DAY)]
    local = [each.astimezone(BERLIN) for each in moments]
    works = np.array([each.weekday() < 5 and each.date() not in holidays for each in local])
    hour = np.array([each.hour + each.minute / 60 for each in local])
    wave = 20.0 + 80.0 * np.exp(-np.square((hour - 12.0) / 3.0))
    return Panel(keys=(KEY,), start=start, step=STEP, values=np.where(works, wave, 0.2 * wave)[None, :])


@pytest.mark.parametrize("model", [SeasonalNaive(), SeasonalDelta()], ids=lambda model: model.model_id)
@pytest.mark.parametrize(
    ("now", "without"),
    [
        pytest.param(datetime(2026, 5, 14, 6, tzinfo=UTC), 1.2, id="a holiday's morning"),
        pytest.param(datetime(2026, 5, 15, 6, tzinfo=UTC), 0.9, id="the morning after"),
        pytest.param(datetime(2026, 5, 16, 6, tzinfo=UTC), 1.2, id="a Saturday's morning"),
    ],
)
def test_a_day_of_another_kind_is_forecast_by_its_like(model: Forecaster, now: datetime, without: float) -> None:
    whole = office(14, start=datetime(2026, 5, 3, tzinfo=UTC), holidays=frozenset([ASCENSION]))
    known = up_to(whole, now)
    truth = whole.values[0, known.values.shape[1] + 29]
    plain = model.predict(known, horizons=(30,))[0, 0, 0]
    like = model.predict(told(known, GERMAN), horizons=(30,))[0, 0, 0]
    assert like == pytest.approx(truth, rel=0.02)
    assert plain > without * truth if without > 1.0 else plain < without * truth


def test_references_are_cut_and_replayed_with_their_panel() -> None:
    whole = office(14, start=datetime(2026, 5, 3, tzinfo=UTC), holidays=frozenset([ASCENSION]))
    panel = told(whole, GERMAN)
    quick = replayed(SeasonalNaive(), panel)
    for now in (datetime(2026, 5, 14, 6, tzinfo=UTC), datetime(2026, 5, 15, 6, 3, tzinfo=UTC)):
        known = up_to(panel, now)
        assert known.reference is not None
        assert known.reference.shape == known.values.shape
        assert quick.predict(known) == pytest.approx(SeasonalNaive().predict(tail(known, 4000)), rel=1e-9)
