"""What is kept from models: events and outages; what is put back: the event that lies ahead; and by whose clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecaster.day_kinds import Calendar
from forecaster.errors import HistoryError
from forecaster.sources.history import HistoryStore
from forecaster.sources.plan import DEMAND_SEEN, SERVICE_UP
from forecaster.types import HORIZONS, LEVELS, STEP, Forecast, Panel, SeriesKey
from policy_cases import NOON
from scaler.adapters import demand
from scaler.adapters.intake import DEMAND
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent, ScheduledRule
from scaler.policy.types import DemandForecast

HOUR, MINUTE = timedelta(hours=1), STEP
GUI = SeriesKey(workload="llm/chat", signal=DEMAND, request_class="gui")
HTML = SeriesKey(workload="llm/chat", signal=DEMAND, request_class="html")
OTHER = SeriesKey(workload="llm/docs", signal=DEMAND)
START = NOON - 4 * HOUR


@pytest.fixture
def history(tmp_path: Path) -> Iterator[HistoryStore]:
    """Four hours of 10/s of two classes, and 30/s of another workload."""
    with HistoryStore.open(tmp_path / "history.db", now=NOON) as store:
        values = np.array([[10.0], [10.0], [30.0]]).repeat(240, axis=1)
        store.append(Panel(keys=(GUI, HTML, OTHER), start=START, step=STEP, values=values), now=NOON)
        yield store


def usual(history: HistoryStore, known: demand.Known | None = None, *, end: datetime = NOON) -> np.ndarray:
    keys = (GUI, HTML, OTHER)
    return demand.usual_demand(history, keys, start=START, end=end, known=known or {}).values


def an_event(start: datetime, end: datetime, ratio: float | None = None) -> ScheduledEvent:
    return ScheduledEvent(name="sale", start=start, end=end, expected_peak=(), demand_ratio=ratio)


def told(history: HistoryStore, workload: str, signal: str, start: datetime, values: list[float]) -> None:
    key = SeriesKey(workload=workload, signal=signal)
    history.append(Panel(keys=(key,), start=start, step=STEP, values=np.array([values])), now=NOON)


def test_without_evidence_and_events_it_is_what_was_stored(history: HistoryStore) -> None:
    stored = history.read((GUI, HTML, OTHER), start=START, end=NOON).values
    np.testing.assert_array_equal(usual(history), stored)


def test_evidence_speaks_for_every_class_of_its_workload_alone(history: HistoryStore) -> None:
    low = np.full((3, 5), 4.0)
    history.append(Panel(keys=(GUI, HTML, OTHER), start=START + HOUR, step=STEP, values=low), now=NOON)
    told(history, "llm/chat", DEMAND_SEEN, START + HOUR, [0.5] * 5)
    hour = usual(history)[:, 60:66]
    assert np.isnan(hour[:2, :5]).all()
    assert hour[:, 5].tolist() == [10.0, 10.0, 30.0]
    assert hour[2, :5].tolist() == [4.0] * 5


def test_minutes_in_which_nobody_was_served_are_unknown(history: HistoryStore) -> None:
    told(history, "llm/docs", SERVICE_UP, START + HOUR, [0.0, 0.0])
    assert np.flatnonzero(np.isnan(usual(history)[2])).tolist() == [60, 61]


@pytest.mark.parametrize(
    ("event", "unknown", "divided"),
    [
        pytest.param(an_event(START + HOUR, START + 2 * HOUR, 2.5), 0, 60, id="a ratio is divided out"),
        pytest.param(an_event(START - HOUR, START + HOUR, 2.5), 0, 60, id="it began before the history"),
        pytest.param(an_event(NOON - HOUR, NOON + HOUR, 2.5), 0, 60, id="it lasts still"),
        pytest.param(an_event(NOON + HOUR, NOON + 2 * HOUR, 2.5), 0, 0, id="it is still to come"),
        pytest.param(an_event(START - 2 * HOUR, START - HOUR, 2.5), 0, 0, id="it was over before"),
        pytest.param(an_event(START + HOUR, START + 2 * HOUR), 60, 0, id="of unknown size: it is hidden"),
        pytest.param(an_event(NOON - 2 * HOUR, NOON - HOUR), 60, 0, id="over for an hour: hidden from now on"),
        pytest.param(an_event(NOON - 2 * HOUR, NOON - HOUR + MINUTE), 0, 0, id="hardly over: says where the level is"),
        pytest.param(an_event(NOON - HOUR, NOON + HOUR), 0, 0, id="of unknown size and on: all there is to go by"),
    ],
)
def test_events_are_not_learnt(history: HistoryStore, event: ScheduledEvent, unknown: int, divided: int) -> None:
    values = usual(history, {"llm/chat": ScheduledRule(events=(event,))})
    for row in values[:2]:
        assert np.isnan(row).sum() == unknown
        assert (row == 4.0).sum() == divided
        assert (row == 10.0).sum() == 240 - unknown - divided
    assert (values[2] == 30.0).all(), "the other workload has no event"


ASCENSION = date(2026, 5, 14)
"""A Thursday."""
GERMAN = Calendar(zone=ZoneInfo("Europe/Berlin"), holidays=frozenset([ASCENSION]))


@pytest.fixture
def fortnight(tmp_path: Path) -> Iterator[HistoryStore]:
    """Two weeks of two workloads up to the holiday's morning; every minute holds the number of its day in May."""
    now = datetime(2026, 5, 14, 6, tzinfo=UTC)
    start = datetime(2026, 5, 3, 22, tzinfo=UTC)  # Monday's midnight in Berlin
    days = 4.0 + np.arange((now - start) // STEP) // 1440
    with HistoryStore.open(tmp_path / "fortnight.db", now=now) as store:
        store.append(Panel(keys=(GUI, OTHER), start=start, step=STEP, values=np.stack([days, days])), now=now)
        yield store


@pytest.mark.parametrize("days", [pytest.param(2, id="a warm step"), pytest.param(10, id="a first one")])
def test_a_holiday_is_compared_with_sunday_however_little_is_read(fortnight: HistoryStore, days: int) -> None:
    end = datetime(2026, 5, 14, 6, tzinfo=UTC)
    known = {"llm/chat": ScheduledRule(timezone="Europe/Berlin")}
    panel = demand.usual_demand(fortnight, (GUI, OTHER), start=end - timedelta(days=days), end=end, known=known)
    told = demand.with_like_days(fortnight, panel, known=known, calendars={"llm/chat": GERMAN})
    assert np.array_equal(told.values, panel.values)
    assert told.reference is not None
    yesterday = told.reference[:, -1440]
    assert yesterday.tolist() == [10.0, 13.0], "Sunday's, and of the workload without a calendar Wednesday's"
    midnight = 8 * 60
    before = told.reference[0, -1440 - midnight - 1], told.reference[0, -1440 - midnight]
    assert before == (12.0, 10.0), "it begins at Berlin's midnight"


def test_without_a_calendar_or_a_day_that_departs_nothing_is_told(fortnight: HistoryStore) -> None:
    end = datetime(2026, 5, 7, 6, tzinfo=UTC)
    panel = demand.usual_demand(fortnight, (GUI,), start=end - timedelta(days=2), end=end, known={})
    for calendars in ({}, {"llm/chat": GERMAN}):
        assert demand.with_like_days(fortnight, panel, known={}, calendars=calendars) is panel


def a_forecast(issued_at: datetime, value: float = 10.0) -> DemandForecast:
    levels = tuple(value * (1.0 + 0.1 * q) for q in range(len(LEVELS)))
    forecast = Forecast(
        model="m", issued_at=issued_at, expires_at=issued_at + HOUR, step_s=60.0,
        horizons=HORIZONS, values=(levels,) * len(HORIZONS),
    )  # fmt: skip
    return DemandForecast(forecast=forecast)


def test_a_forecast_is_lifted_bin_by_bin_and_level_by_level() -> None:
    event = an_event(NOON + 5 * MINUTE, NOON + 10 * MINUTE, 2.0)
    known = {"llm/chat": ScheduledRule(events=(event,))}
    forecasts = {"llm/chat": (a_forecast(NOON),), "llm/docs": (a_forecast(NOON),)}
    lifted = demand.as_announced(forecasts, known)
    # Horizon h is the bin that starts h - 1 minutes from now: 6, 8 and 10 lie in [5, 10).
    medians = dict(zip(HORIZONS, (levels[0] for levels in lifted["llm/chat"][0].forecast.values), strict=True))
    assert {horizon for horizon, median in medians.items() if median == 20.0} == {6, 8, 10}
    assert lifted["llm/chat"][0].forecast.values[5] == pytest.approx((20.0, 22.0, 24.0, 26.0))
    assert lifted["llm/docs"] == forecasts["llm/docs"]


def test_dividing_and_lifting_cancel(history: HistoryStore) -> None:
    """An event at exactly its announced ratio leaves no trace: what is learnt is usual, what is forecast is lifted."""
    event = an_event(NOON - HOUR, NOON + HOUR, 2.5)
    known = {"llm/chat": ScheduledRule(events=(event,))}
    during = np.full((1, 60), 25.0)
    history.append(Panel(keys=(GUI,), start=NOON - HOUR, step=STEP, values=during), now=NOON)
    learnt = usual(history, known)[0]
    assert (learnt == 10.0).all()
    ahead = demand.as_announced({"llm/chat": (a_forecast(NOON, learnt[-1]),)}, known)["llm/chat"][0].forecast
    assert ahead.quantile(NOON + 5 * MINUTE, z=0.0) == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("zone", "since", "changed"),
    [
        pytest.param("Europe/Berlin", datetime(2026, 3, 29, 0, 59, tzinfo=UTC), True, id="spring"),
        pytest.param("Europe/Berlin", datetime(2026, 10, 25, 0, 59, tzinfo=UTC), True, id="autumn"),
        pytest.param("Europe/Berlin", datetime(2026, 6, 1, tzinfo=UTC), False, id="an ordinary minute"),
        pytest.param("Australia/Lord_Howe", datetime(2026, 4, 4, 14, 59, tzinfo=UTC), True, id="half an hour"),
        pytest.param("Asia/Kolkata", datetime(2026, 3, 29, 0, 59, tzinfo=UTC), False, id="a zone without"),
    ],
)
def test_the_minute_in_which_clocks_change(zone: str, since: datetime, changed: bool) -> None:
    known = {"llm/chat": ScheduledRule(timezone=zone)}
    assert demand.clocks_changed(known, (GUI,), since=since, until=since + MINUTE) is changed
    assert demand.clocks_changed(known, (OTHER,), since=since, until=since + MINUTE) is False


def test_what_is_known_survives_the_way_to_the_refit() -> None:
    event = replace(an_event(NOON, NOON + HOUR, 2.5), expected_peak=(ExpectedDemand(request_class="gui", rps=40.0),))
    known = {"llm/chat": ScheduledRule(events=(event,), timezone="Europe/Berlin"), "llm/docs": ScheduledRule()}
    assert demand.known_from_bytes(demand.known_to_bytes(known)) == {"llm/chat": known["llm/chat"]}
    with pytest.raises(HistoryError, match="unreadable"):
        demand.known_from_bytes(b'{"llm/chat": 7}')
