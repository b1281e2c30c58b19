"""Events as floors, windows as time-boxed bounds: wall clocks, midnight, daylight saving."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from policy_cases import NOON, a_snapshot
from scaler.policy import scheduled
from scaler.policy.capacity import single_rate
from scaler.policy.scheduled import DAYS, ExpectedDemand, ScheduledEvent, ScheduledRule, TimeWindow
from scaler.policy.types import Reason

TEN = single_rate("x", 10.0)


def an_event(name: str = "live", *, start: datetime = NOON, hours: float = 2.0, rps: float = 100.0) -> ScheduledEvent:
    peak = (ExpectedDemand(request_class="default", rps=rps),)
    return ScheduledEvent(name=name, start=start, end=start + timedelta(hours=hours), expected_peak=peak)


@pytest.mark.parametrize(
    ("minutes", "floor"),
    [
        pytest.param(-63.01, None, id="before warm-up and its start"),
        pytest.param(-63.0, 5, id="half is ordered one hour and one start ahead"),
        pytest.param(-3.01, 5, id="still half"),
        pytest.param(-3.0, 10, id="all of it one start ahead"),
        pytest.param(0.0, 10, id="at the start"),
        pytest.param(119.99, 10, id="until the end"),
        pytest.param(120.0, None, id="over"),
    ],
)
def test_event_is_a_floor(minutes: float, floor: int | None) -> None:
    """Expected peak 100 rps at 10 rps a replica, 3 minutes of start, half of it warm an hour ahead (S8)."""
    proposal = scheduled.propose(
        a_snapshot(lead_s=180.0), ScheduledRule(events=(an_event(),)), TEN, now=NOON + timedelta(minutes=minutes)
    )
    assert (proposal.want if proposal else None) == floor
    assert (proposal.keep if proposal else None) == floor


def test_the_highest_of_several_events_counts_and_is_named() -> None:
    rule = ScheduledRule(events=(an_event("small", rps=20.0), an_event("big", rps=70.0), an_event("zero", rps=0.0)))
    proposal = scheduled.propose(a_snapshot(), rule, TEN, now=NOON)
    assert proposal is not None
    assert (proposal.want, proposal.detail, proposal.reason) == (7, "event 'big'", Reason.SCHEDULED)
    tiny = scheduled.propose(a_snapshot(), ScheduledRule(events=(an_event(rps=3.0),)), TEN, now=NOON)
    assert tiny is not None
    assert tiny.want == 1


def test_an_event_without_demand_is_no_opinion() -> None:
    assert scheduled.propose(a_snapshot(), ScheduledRule(events=(an_event(rps=0.0),)), TEN, now=NOON) is None
    assert scheduled.propose(a_snapshot(), ScheduledRule(), TEN, now=NOON) is None


def at(text: str, zone: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def a_window(start: str, end: str, *, zone: str = "UTC", days: tuple[str, ...] = DAYS) -> TimeWindow:
    return TimeWindow(
        name="w",
        start=time.fromisoformat(start),
        end=time.fromisoformat(end),
        timezone=zone,
        days=days,
        min_replicas=3,
    )


WEEKDAYS = DAYS[:5]


@pytest.mark.parametrize(
    ("window", "moment", "active"),
    [
        pytest.param(a_window("09:00", "17:00"), at("2026-03-02T09:00", "UTC"), True, id="the start belongs to it"),
        pytest.param(a_window("09:00", "17:00"), at("2026-03-02T08:59:59", "UTC"), False, id="a second before"),
        pytest.param(a_window("09:00", "17:00"), at("2026-03-02T17:00", "UTC"), False, id="the end does not"),
        pytest.param(a_window("09:00", "17:00", days=WEEKDAYS), at("2026-03-07T12:00", "UTC"), False, id="not on Saturday"),
        pytest.param(a_window("22:00", "06:00"), at("2026-03-02T23:00", "UTC"), True, id="before midnight"),
        pytest.param(a_window("22:00", "06:00"), at("2026-03-02T05:59", "UTC"), True, id="after midnight"),
        pytest.param(a_window("22:00", "06:00"), at("2026-03-02T06:00", "UTC"), False, id="over in the morning"),
        pytest.param(a_window("22:00", "06:00", days=("fri",)), at("2026-03-07T03:00", "UTC"), True, id="Friday's night reaches Saturday"),
        pytest.param(a_window("22:00", "06:00", days=("fri",)), at("2026-03-06T03:00", "UTC"), False, id="Friday morning is Thursday's night"),
        pytest.param(a_window("22:00", "06:00", days=("sun",)), at("2026-03-02T03:00", "UTC"), True, id="Sunday's night reaches Monday"),
        pytest.param(a_window("08:00", "08:00", days=("mon",)), at("2026-03-02T08:00", "UTC"), True, id="start == end: a whole day"),
        pytest.param(a_window("08:00", "08:00", days=("mon",)), at("2026-03-03T07:59", "UTC"), True, id="to the next morning"),
        pytest.param(a_window("08:00", "08:00", days=("mon",)), at("2026-03-03T08:00", "UTC"), False, id="and no longer"),
        pytest.param(a_window("09:00", "10:00", zone="Asia/Kolkata"), at("2026-03-02T03:30", "UTC"), True, id="half-hour zone"),
        pytest.param(a_window("09:00", "10:00", zone="Asia/Kolkata"), at("2026-03-02T03:29", "UTC"), False, id="half-hour zone, before"),
        pytest.param(a_window("09:00", "10:00", zone="Asia/Shanghai", days=("tue",)), at("2026-03-03T01:30", "UTC"), True, id="the local day counts"),
        pytest.param(a_window("02:30", "03:30", zone="Europe/Berlin"), datetime(2026, 3, 29, 1, 0, tzinfo=UTC), True, id="spring: 02:30 does not exist, 03:00 is in"),
        pytest.param(a_window("02:30", "03:30", zone="Europe/Berlin"), datetime(2026, 3, 29, 0, 59, tzinfo=UTC), False, id="spring: 01:59 is not"),
        pytest.param(a_window("02:30", "03:30", zone="Europe/Berlin"), datetime(2026, 10, 25, 0, 45, tzinfo=UTC), True, id="autumn: first 02:45"),
        pytest.param(a_window("02:30", "03:30", zone="Europe/Berlin"), datetime(2026, 10, 25, 1, 45, tzinfo=UTC), True, id="autumn: second 02:45"),
    ],
)  # fmt: skip
def test_window_follows_the_wall_clock(window: TimeWindow, moment: datetime, active: bool) -> None:
    assert window.active(now=moment) is active


def bounded(least: int | None, most: int | None) -> TimeWindow:
    return TimeWindow(name="w", start=time(11), end=time(13), min_replicas=least, max_replicas=most)


@pytest.mark.parametrize(
    ("windows", "bounds"),
    [
        pytest.param((), (1, 8), id="none"),
        pytest.param((bounded(3, None),), (3, 8), id="a minimum"),
        pytest.param((bounded(None, 2),), (1, 2), id="a maximum"),
        pytest.param((bounded(3, None), bounded(5, None)), (5, 8), id="the highest minimum"),
        pytest.param((bounded(None, 6), bounded(None, 4)), (1, 4), id="the lowest maximum"),
        pytest.param((bounded(0, None),), (1, 8), id="a window never lowers the minimum"),
        pytest.param((bounded(None, 20),), (1, 8), id="a window never raises the maximum"),
        pytest.param((bounded(7, None), bounded(None, 4)), (4, 4), id="the maximum wins a conflict"),
    ],
)
def test_bounds_in_force(windows: tuple[TimeWindow, ...], bounds: tuple[int, int]) -> None:
    assert scheduled.bounds_at(ScheduledRule(windows=windows), least=1, most=8, now=NOON) == bounds
    later = NOON + timedelta(hours=2)
    assert scheduled.bounds_at(ScheduledRule(windows=windows), least=1, most=8, now=later) == (1, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: an_event(start=datetime(2026, 3, 2, 12)), "event 'live' needs start and end with a time zone", id="naive"),  # noqa: DTZ001
        pytest.param(lambda: ScheduledEvent(name="e", start=NOON, end=datetime(2026, 3, 3), expected_peak=()), "event 'e' needs start and end with a time zone", id="naive end"),  # noqa: DTZ001
        pytest.param(lambda: a_window("09:00", "10:00", days=("foo", "bar")), "got bar, foo", id="two bad days"),
        pytest.param(lambda: an_event(hours=0.0), "not after its start at 2026-03-02 12:00:00+00:00", id="empty event"),
        pytest.param(lambda: ExpectedDemand(request_class="a", rps=-1.0), "rps of 'a' must be ≥ 0, got -1.0", id="negative peak"),
        pytest.param(lambda: ExpectedDemand(request_class="a", rps=float("nan")), "must be ≥ 0, got nan", id="NaN peak"),
        pytest.param(lambda: a_window("09:00", "10:00", zone="Mars/Base"), "timezone of window 'w' must be an IANA name such as Europe/Berlin, got 'Mars/Base'", id="zone"),
        pytest.param(lambda: a_window("09:00", "10:00", zone="../etc"), "must be an IANA name", id="zone that is a path"),
        pytest.param(lambda: a_window("09:00", "10:00", days=("mon", "foo")), "days of window 'w' must be among mon, tue, wed, thu, fri, sat, sun, got foo", id="day"),
        pytest.param(lambda: a_window("09:00", "10:00", days=()), "days of window 'w' must be among", id="no day"),
        pytest.param(lambda: bounded(None, None), "window 'w' sets neither min_replicas nor max_replicas", id="idle window"),
        pytest.param(lambda: bounded(-1, None), "min_replicas of window 'w' must be at least 0, got -1", id="negative minimum"),
        pytest.param(lambda: bounded(None, -1), "max_replicas of window 'w' must be at least 0, got -1", id="negative maximum"),
    ],
)  # fmt: skip
def test_refuses_what_cannot_be_meant(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_accepts_the_edges() -> None:
    for share in (0.0, 1.0):
        event = ScheduledEvent(name="e", start=NOON, end=NOON + timedelta(1), expected_peak=(), warm_up_ratio=share)
        assert event.warm_up_ratio == share
    assert (bounded(0, None).min_replicas, bounded(None, 0).max_replicas) == (0, 0)


@pytest.mark.parametrize("share", [-0.01, 1.01])
def test_refuses_a_warm_up_share_outside_nought_to_one(share: float) -> None:
    with pytest.raises(ValueError, match="warm_up_ratio of event 'e' must lie in"):
        ScheduledEvent(name="e", start=NOON, end=NOON + timedelta(1), expected_peak=(), warm_up_ratio=share)


@pytest.mark.parametrize(
    ("minutes", "multiple"),
    [
        pytest.param(-0.01, 1.0, id="before"),
        pytest.param(0.0, 2.5, id="from the start"),
        pytest.param(60.0, 1.0, id="a sale on a holiday"),
        pytest.param(119.99, 1.0, id="both still"),
        pytest.param(120.0, 0.4, id="the holiday alone"),
        pytest.param(180.0, 1.0, id="over"),
    ],
)
def test_events_multiply_what_is_usual(minutes: float, multiple: float) -> None:
    hour = timedelta(hours=1)
    rule = ScheduledRule(
        events=(
            ScheduledEvent(name="sale", start=NOON, end=NOON + 2 * hour, expected_peak=(), demand_ratio=2.5),
            ScheduledEvent(name="holiday", start=NOON + hour, end=NOON + 3 * hour, expected_peak=(), demand_ratio=0.4),
            an_event("of unknown ratio"),
        )
    )
    assert scheduled.usual_multiple(rule, at=NOON + timedelta(minutes=minutes)) == pytest.approx(multiple)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 0.009, 101.0, float("nan"), float("inf")])
def test_a_ratio_that_is_a_slip_of_the_pen_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="demand_ratio of event 'e'"):
        ScheduledEvent(name="e", start=NOON, end=NOON + timedelta(1), expected_peak=(), demand_ratio=ratio)


def test_the_clock_of_a_workload_must_exist() -> None:
    with pytest.raises(ValueError, match=r"timezone must be an IANA name such as Europe/Berlin, got 'Mars/Base'"):
        ScheduledRule(timezone="Mars/Base")
