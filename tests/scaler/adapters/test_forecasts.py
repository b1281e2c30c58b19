"""From a metrics source through the stored history to the forecasts in force: over real stores, with a scripted past."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecaster.errors import ArtefactError, SourceError, SourceTimeout
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.seasonal import LastValue, SeasonalNaive
from forecaster.sources.plan import DEMAND_SEEN
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, Forecaster, Panel, SeriesKey
from policy_cases import MINUTE, NOON
from scaler.adapters import forecasts as module
from scaler.adapters.forecasts import DemandForecaster, ForecastBoard
from scaler.adapters.intake import DEMAND, HistoryIntake
from scaler.adapters.store import Store
from scaler.policy.scheduled import ScheduledEvent, ScheduledRule

CHAT = "llm/chat"
KEY = SeriesKey(workload=CHAT, signal=DEMAND)
DAY = timedelta(days=1)
MEMBERS: tuple[Forecaster, ...] = (LastValue(), SeasonalNaive())


def daily(at: datetime) -> float:
    """Demand that doubles at noon sharp, every day."""
    return 20.0 if at.hour >= 12 else 10.0


class ScriptedPast:
    """A source that knows `daily` back to `reaches`, and fails on demand."""

    def __init__(self, *, reaches: datetime = NOON - 3 * DAY) -> None:
        self.reaches = reaches
        self.failing: SourceError | None = None
        self.asked: list[tuple[datetime, datetime]] = []
        self.evidence_failing: SourceError | None = None
        self.scraped: dict[datetime, float] = {}
        self.told: dict[tuple[str, str], float] = {}
        """Tokens or images of a request, by signal and request class; nothing is told at first."""
        self.usage_failing: SourceError | None = None
        self.usage_asked: list[tuple[list[str], datetime, datetime]] = []
        self.classes: dict[str, set[str]] = {}

    def history(
        self, selectors: Sequence[WorkloadSelector], signal: str, *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        self.asked.append((start, end))
        if self.failing is not None:
            raise self.failing
        moments = [start + i * step for i in range((end - start) // step)]
        row = [daily(at) if at >= self.reaches else np.nan for at in moments]
        keys = tuple(SeriesKey(workload=each.workload, signal=signal) for each in selectors)
        return Panel(keys=keys, start=start, step=step, values=np.array([row] * len(keys)))

    def evidence(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        if self.evidence_failing is not None:
            raise self.evidence_failing
        row = [self.scraped.get(start + i * step, 1.0) for i in range((end - start) // step)]
        keys = tuple(SeriesKey(workload=each.workload, signal=DEMAND_SEEN) for each in selectors)
        return Panel(keys=keys, start=start, step=step, values=np.array([row] * len(keys)))

    def usage(
        self,
        selectors: Sequence[WorkloadSelector],
        classes: Mapping[str, Collection[str]],
        *,
        start: datetime,
        end: datetime,
        step: timedelta,
    ) -> Panel:
        self.usage_asked.append(([each.workload for each in selectors], start, end))
        self.classes = {workload: set(names) for workload, names in classes.items()}
        if self.usage_failing is not None:
            raise self.usage_failing
        moments = [start + i * step for i in range((end - start) // step)]
        rows = {
            SeriesKey(workload=each.workload, signal=signal, request_class=name): [
                per_request * daily(at) if at >= self.reaches else np.nan for at in moments
            ]
            for each in selectors
            for (signal, name), per_request in self.told.items()
            if each.workload == CHAT
        }
        keys = tuple(sorted(rows))
        values = np.array([rows[key] for key in keys]).reshape(len(keys), len(moments))
        return Panel(keys=keys, start=start, step=step, values=values)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path, now=NOON) as opened:
        yield opened


@pytest.fixture
def past() -> ScriptedPast:
    return ScriptedPast()


@pytest.fixture
def intake(store: Store, past: ScriptedPast) -> HistoryIntake:
    return HistoryIntake(past, [WorkloadSelector.for_workload("llm", "chat")], store)


def filled(intake: HistoryIntake, now: datetime = NOON) -> None:
    assert intake.backfill(now=now, stopped=lambda: False).error == ""


def a_forecaster(store: Store) -> DemandForecaster:
    return DemandForecaster(store, workloads={CHAT}, ttl=timedelta(minutes=10))


LEAD = {CHAT: timedelta(minutes=3)}


# ── History ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_past_is_asked_for_a_day_at_a_time_newest_first(intake: HistoryIntake, past: ScriptedPast) -> None:
    brought = intake.backfill(now=NOON, stopped=lambda: False)
    assert (brought.stored, brought.pieces) == (3 * 1440, 14)
    assert past.asked[0] == (NOON - DAY, NOON)
    assert all(end - start <= DAY for start, end in past.asked)


def test_a_minute_that_all_have_missed_is_a_minute(past: ScriptedPast, store: Store) -> None:
    """Of 2,000 workloads one missing minute is 2,000 points: taken for a day's, it had everything learnt again."""
    many = [WorkloadSelector.for_workload("llm", f"chat-{number}") for number in range(30)]
    intake = HistoryIntake(past, many, store)
    assert intake.backfill(now=NOON - timedelta(hours=1), stopped=lambda: False).most >= 2 * 1440
    brought = intake.backfill(now=NOON, stopped=lambda: False)
    assert (brought.stored, brought.most) == (30 * 60, 60)


def test_what_the_source_does_not_have_is_not_asked_for_again(intake: HistoryIntake, past: ScriptedPast) -> None:
    filled(intake)
    past.asked.clear()
    filled(intake)
    assert past.asked == []


def test_a_failure_ends_the_pass_and_the_next_one_goes_on(intake: HistoryIntake, past: ScriptedPast) -> None:
    past.failing = SourceTimeout("no complete answer within 8 s")
    brought = intake.backfill(now=NOON, stopped=lambda: False)
    assert (brought.stored, brought.error) == (0, "no complete answer within 8 s")
    assert len(past.asked) == 1
    past.failing = None
    filled(intake)


def test_being_stopped_ends_the_pass(intake: HistoryIntake, past: ScriptedPast) -> None:
    assert intake.backfill(now=NOON, stopped=lambda: len(past.asked) >= 2).error == "stopped"
    assert len(past.asked) == 2


def test_each_minute_brings_the_last_one_and_asks_two_again(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    intake.collect(now=NOON + timedelta(seconds=3))
    intake.collect(now=NOON + MINUTE + timedelta(seconds=3))
    assert past.asked == [(NOON - timedelta(minutes=30), NOON), (NOON - 2 * MINUTE, NOON + MINUTE)]
    assert store.history.last_minutes([KEY], minutes=2, now=NOON + MINUTE).values.tolist() == [[10.0, 20.0]]


def test_minutes_lost_to_an_outage_are_asked_for_when_it_is_over(intake: HistoryIntake, past: ScriptedPast) -> None:
    intake.collect(now=NOON)
    past.failing = SourceTimeout("down")
    for minute in range(1, 8):
        with pytest.raises(SourceTimeout):
            intake.collect(now=NOON + minute * MINUTE)
    past.failing = None
    intake.collect(now=NOON + 8 * MINUTE)
    assert past.asked[-1] == (NOON - 2 * MINUTE, NOON + 8 * MINUTE)


def test_a_clock_that_is_put_back_does_not_end_the_collection(intake: HistoryIntake, past: ScriptedPast) -> None:
    """Ours ran an hour ahead; without this the history would stand still, and forecasts with it, for that hour."""
    intake.collect(now=NOON + timedelta(hours=1))
    intake.collect(now=NOON)
    assert past.asked[-1] == (NOON - timedelta(minutes=30), NOON)
    intake.collect(now=NOON + MINUTE)
    assert past.asked[-1] == (NOON - 2 * MINUTE, NOON + MINUTE)


def test_a_workload_that_joins_brings_its_own_past(intake: HistoryIntake, past: ScriptedPast, store: Store) -> None:
    """The others have no hole, so nothing would be asked for, and the newcomer would learn for two weeks."""
    filled(intake)
    both = [WorkloadSelector.for_workload("llm", name) for name in ("chat", "docs")]
    joined = HistoryIntake(past, both, store).backfill(now=NOON, stopped=lambda: False)
    assert joined.stored == 3 * 1440
    stored = store.history.keys()
    assert [key.workload for key in stored] == ["llm/chat", "llm/docs"]


def test_what_was_asked_for_is_forgotten_when_it_is_too_old_to_ask_for(
    intake: HistoryIntake, past: ScriptedPast
) -> None:
    """A source that reaches back three days leaves a hole whose beginning moves on with every hour, for months."""
    for hour in (0, 1, 2):
        filled(intake, NOON + timedelta(hours=hour))
    assert len(intake._asked) > 10
    filled(intake, NOON + 15 * DAY)
    assert all(end > NOON + DAY for _, _, end in intake._asked)


def test_what_speaks_against_a_minute_is_stored_beside_it_and_nothing_else_is(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    intake.collect(now=NOON)
    assert {key.signal for key in store.history.keys()} == {DEMAND}  # noqa: SIM118 — not a dict
    past.scraped = {NOON: 0.5}
    intake.collect(now=NOON + 2 * MINUTE)
    seen = SeriesKey(workload=CHAT, signal=DEMAND_SEEN)
    stored = store.history.last_minutes([KEY, seen], minutes=3, now=NOON + 2 * MINUTE).values
    assert stored == pytest.approx(np.array([[10.0, 20.0, 20.0], [np.nan, 0.5, np.nan]]), nan_ok=True)


def test_demand_is_kept_when_its_evidence_cannot_be_had_and_both_are_asked_for_again(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    past.evidence_failing, past.scraped = SourceTimeout("no complete answer within 8 s"), {NOON: 0.5}
    with pytest.raises(SourceTimeout):
        intake.collect(now=NOON + MINUTE)
    assert store.history.last_minutes([KEY], minutes=1, now=NOON + MINUTE).values.tolist() == [[20.0]]
    past.evidence_failing = None
    intake.collect(now=NOON + 3 * MINUTE)
    seen = SeriesKey(workload=CHAT, signal=DEMAND_SEEN)
    assert store.history.read([seen], start=NOON, end=NOON + MINUTE).values.tolist() == [[0.5]]


# ── Tokens and images ─────────────────────────────────────────────────────────────────────────────────────────

PROMPT = ("prompt_tokens_per_s", "default")
PROMPT_KEY = replace(KEY, signal="prompt_tokens_per_s")


def signals(store: Store) -> set[str]:
    return {key.signal for key in store.history.keys()}  # noqa: SIM118 — not a dict


def test_where_nobody_tells_tokens_nothing_is_stored_and_it_is_asked_once_an_hour(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    for minute in range(59):
        intake.collect(now=NOON + minute * MINUTE)
    assert (len(past.usage_asked), signals(store)) == (1, {DEMAND})
    intake.collect(now=NOON + 60 * MINUTE)
    assert len(past.usage_asked) == 2


def test_who_tells_tokens_is_asked_every_minute_and_the_others_are_not(store: Store, past: ScriptedPast) -> None:
    both = [WorkloadSelector.for_workload("llm", name) for name in ("chat", "docs")]
    past.told = {PROMPT: 1150.0}
    intake = HistoryIntake(past, both, store)
    for minute in range(3):
        intake.collect(now=NOON + minute * MINUTE)
    assert past.usage_asked == [
        ([CHAT, "llm/docs"], NOON - 30 * MINUTE, NOON),
        ([CHAT], NOON - 2 * MINUTE, NOON + MINUTE),
        ([CHAT], NOON - MINUTE, NOON + 2 * MINUTE),
    ]
    assert past.classes == {CHAT: {"default"}}
    stored = store.history.last_minutes([PROMPT_KEY], minutes=3, now=NOON + 2 * MINUTE).values
    assert stored.tolist() == [[11500.0, 23000.0, 23000.0]]


def test_a_counter_that_never_counted_is_no_series_and_one_that_did_stays_one_at_zero(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    images = ("images_per_s", "default")
    past.told = {PROMPT: 1150.0, images: 0.0}
    intake.collect(now=NOON)
    assert signals(store) == {DEMAND, PROMPT[0]}
    past.told[images] = 1.0
    intake.collect(now=NOON + MINUTE)
    past.told[images] = 0.0
    intake.collect(now=NOON + 5 * MINUTE)
    key = replace(KEY, signal="images_per_s")
    assert store.history.last_minutes([key], minutes=1, now=NOON + 5 * MINUTE).values.tolist() == [[0.0]]


def test_tokens_that_cannot_be_had_cost_demand_nothing_and_are_asked_for_later(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    past.told, past.usage_failing = {PROMPT: 1150.0}, SourceTimeout("no complete answer within 8 s")
    for minute in (1, 2):
        with pytest.raises(SourceTimeout):
            intake.collect(now=NOON + minute * MINUTE)
    assert past.asked[-1] == (NOON - MINUTE, NOON + 2 * MINUTE), "demand of the first minute is not asked for again"
    past.usage_failing = None
    intake.collect(now=NOON + 3 * MINUTE)
    stored = store.history.last_minutes([PROMPT_KEY], minutes=3, now=NOON + 3 * MINUTE).values
    assert stored.tolist() == [[23000.0] * 3]


def test_the_past_of_tokens_comes_with_that_of_demand(intake: HistoryIntake, past: ScriptedPast, store: Store) -> None:
    past.told = {PROMPT: 1150.0}
    filled(intake)
    assert store.history.span(PROMPT_KEY) == store.history.span(KEY)


def test_whoever_begins_to_tell_tokens_brings_their_past(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    """A gateway is upgraded: demand has no hole, so nothing else would ask."""
    filled(intake)
    past.told = {PROMPT: 1150.0}
    intake.collect(now=NOON + 61 * MINUTE)
    past.usage_asked.clear()
    filled(intake, NOON + 62 * MINUTE)
    assert store.history.span(PROMPT_KEY) == (NOON - 3 * DAY, NOON + 60 * MINUTE)
    pieces = len(past.usage_asked)
    filled(intake, NOON + 63 * MINUTE)
    assert (pieces, len(past.usage_asked)) == (14, 14), "what the source does not have is not asked for again"


def test_a_class_that_is_gone_does_not_keep_another_from_being_the_only_one(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    old = Panel(
        keys=(replace(KEY, request_class="old"),), start=NOON - 3 * DAY, step=STEP, values=np.full((1, 60), 5.0)
    )
    store.history.append(old, now=NOON)
    intake.collect(now=NOON)
    assert past.classes == {CHAT: {"default"}}


# ── Forecasts ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_history_a_workload_is_learning(store: Store) -> None:
    run = a_forecaster(store).run(MEMBERS, lead=LEAD, now=NOON)
    assert (dict(run.forecasts), run.learning) == ({}, frozenset({CHAT}))


def test_less_than_a_day_of_history_is_learning_too(store: Store, past: ScriptedPast, intake: HistoryIntake) -> None:
    past.reaches = NOON - timedelta(hours=20)
    filled(intake)
    run = a_forecaster(store).run(MEMBERS, lead=LEAD, now=NOON)
    assert (dict(run.forecasts), run.learning) == ({}, frozenset({CHAT}))


def test_the_very_first_forecast_knows_the_daily_step_and_has_earned_its_trust(
    store: Store, intake: HistoryIntake
) -> None:
    """Ten minutes before the daily step: last value would say 10, and a blank engine would let it speak for an hour."""
    now = NOON - 10 * MINUTE
    filled(intake, now)
    (each,) = a_forecaster(store).run(MEMBERS, lead=LEAD, now=now).forecasts[CHAT]
    assert each.forecast.issued_at == now
    assert each.forecast.quantile(NOON + 2 * MINUTE, z=0.0) == pytest.approx(20.0, rel=0.01)
    assert each.forecast.quantile(NOON - 5 * MINUTE, z=0.0) == pytest.approx(10.0, rel=0.01)
    assert each.quality is not None
    assert each.quality.scored_bins >= 300


def test_half_a_gateway_for_twenty_minutes_does_not_teach_a_fall(
    store: Store, past: ScriptedPast, intake: HistoryIntake
) -> None:
    """From 11:35 on one of two gateways is not scraped: 5 is read where 10 arrive. Evidence or not is the difference."""
    until, halved = NOON - 5 * MINUTE, {NOON - minute * MINUTE: 0.5 for minute in range(5, 26)}
    filled(intake, NOON - 25 * MINUTE)
    moments = sorted(halved)
    low = np.where([at < until for at in moments], 5.0, np.nan)
    store.history.append(Panel(keys=(KEY,), start=moments[0], step=STEP, values=low[None, :]), now=until)

    def forecast() -> float:
        (each,) = a_forecaster(store).run((LastValue(),), lead=LEAD, now=until).forecasts[CHAT]
        return each.forecast.quantile(until + MINUTE, z=0.0)

    assert forecast() == pytest.approx(5.0, rel=0.05)
    seen = SeriesKey(workload=CHAT, signal=DEMAND_SEEN)
    shares = np.array([[halved[at] for at in moments]])
    store.history.append(Panel(keys=(seen,), start=moments[0], step=STEP, values=shares), now=until)
    assert forecast() == pytest.approx(10.0, rel=0.05)


def test_an_event_lifts_the_forecast_from_its_start_and_is_never_learnt(store: Store, intake: HistoryIntake) -> None:
    """A sale of 3 times the usual begins in five minutes, and one was held yesterday at this very hour."""
    now = NOON - 60 * MINUTE
    filled(intake, now)
    sales = tuple(
        ScheduledEvent(name=name, start=start, end=start + timedelta(minutes=20), expected_peak=(), demand_ratio=3.0)
        for name, start in (("today", now + 5 * MINUTE), ("yesterday", now - DAY + 5 * MINUTE))
    )
    tripled = np.full((1, 20), 30.0)
    store.history.append(Panel(keys=(KEY,), start=sales[1].start, step=STEP, values=tripled), now=now)
    forecaster = DemandForecaster(
        store, workloads={CHAT}, ttl=timedelta(minutes=10), known={CHAT: ScheduledRule(events=sales)}
    )
    (each,) = forecaster.run((LastValue(), SeasonalNaive()), lead=LEAD, now=now).forecasts[CHAT]
    at = [each.forecast.quantile(now + minute * MINUTE, z=0.0) for minute in (0, 3, 5, 10, 19, 29)]
    assert at == pytest.approx([10.0, 10.0, 30.0, 30.0, 30.0, 10.0], rel=0.02)


def test_since_the_clocks_were_changed_the_day_begins_elsewhere(store: Store) -> None:
    """Berlin opens at nine sharp. On the first Monday of summer time that is 07:00 UTC, and was 08:00 before."""
    change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    zone = ZoneInfo("Europe/Berlin")
    start, now = change - 5 * DAY, change.replace(hour=6, minute=55)
    moments = [start + i * MINUTE for i in range((now - start) // MINUTE)]
    open_ = [20.0 if 9 <= at.astimezone(zone).hour < 18 else 10.0 for at in moments]
    store.history.append(Panel(keys=(KEY,), start=start, step=STEP, values=np.array([open_])), now=now)

    def at_seven(known: dict[str, ScheduledRule]) -> float:
        forecaster = DemandForecaster(store, workloads={CHAT}, ttl=timedelta(minutes=10), known=known)
        (each,) = forecaster.run((HoltWinters(),), lead=LEAD, now=now).forecasts[CHAT]
        return each.forecast.quantile(now + 27 * MINUTE, z=0.0)

    assert at_seven({CHAT: ScheduledRule(timezone="Europe/Berlin")}) == pytest.approx(20.0, rel=0.1)
    assert at_seven({}) == pytest.approx(10.0, rel=0.1)


def test_on_a_holiday_the_office_stays_empty(store: Store) -> None:
    """Berlin's office opens at nine, but not at the weekend and not on Ascension Day, a Thursday."""
    zone, holiday = ZoneInfo("Europe/Berlin"), date(2026, 5, 14)
    now = datetime(2026, 5, 14, 6, 50, tzinfo=UTC)
    start = now - 9 * DAY
    moments = [(start + i * MINUTE).astimezone(zone) for i in range(9 * 1440)]
    works = [each.weekday() < 5 and each.date() != holiday and 9 <= each.hour < 18 for each in moments]
    row = np.where(works, 40.0, 10.0)[None, :]
    store.history.append(Panel(keys=(KEY,), start=start, step=STEP, values=row), now=now)

    def at_nine(holidays: dict[str, set[date]]) -> float:
        known = {CHAT: ScheduledRule(timezone="Europe/Berlin")}
        forecaster = DemandForecaster(
            store, workloads={CHAT}, ttl=timedelta(minutes=10), known=known, holidays=holidays
        )
        (each,) = forecaster.run((SeasonalNaive(),), lead=LEAD, now=now).forecasts[CHAT]
        return each.forecast.quantile(now + 20 * MINUTE, z=0.0)

    assert at_nine({}) == pytest.approx(40.0)
    assert at_nine({CHAT: {holiday}}) == pytest.approx(10.0)


def test_a_running_engine_learns_its_way_in_again_when_the_clocks_change(store: Store) -> None:
    change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    start = change - 5 * DAY
    count = (change + 3 * MINUTE - start) // MINUTE
    busy = [
        20.0 if 9 <= (start + i * MINUTE).astimezone(ZoneInfo("Europe/Berlin")).hour < 18 else 10.0
        for i in range(count)
    ]
    panel = Panel(keys=(KEY,), start=start, step=STEP, values=np.array([busy]))
    store.history.append(panel, now=panel.end)
    known = {CHAT: ScheduledRule(timezone="Europe/Berlin")}
    running = DemandForecaster(store, workloads={CHAT}, ttl=timedelta(minutes=10), known=known)
    for minute in (-1, 0, 1, 2):
        running.run((HoltWinters(),), lead=LEAD, now=change + minute * MINUTE)
    begun_now = DemandForecaster(store, workloads={CHAT}, ttl=timedelta(minutes=10), known=known)
    begun_now.run((HoltWinters(),), lead=LEAD, now=change + 2 * MINUTE)
    seasons = [one._states[0].tracks["holt-winters"].arrays["season"] for one in (running, begun_now)]
    assert np.argmax(seasons[0] > 0.0) == pytest.approx(np.argmax(seasons[1] > 0.0), abs=20)


def test_portions_change_nothing(store: Store, past: ScriptedPast, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"w{i}" for i in range(5)]
    selectors = [WorkloadSelector.for_workload("llm", name) for name in names]
    HistoryIntake(past, selectors, store).backfill(now=NOON, stopped=lambda: False)

    def run() -> object:
        forecaster = DemandForecaster(store, workloads={f"llm/{name}" for name in names}, ttl=timedelta(minutes=10))
        return forecaster.run(MEMBERS, lead={}, now=NOON).forecasts

    whole = run()
    monkeypatch.setattr(module, "SHARD", 2)
    assert run() == whole


def test_a_tick_goes_before_each_portion_and_each_minute_that_is_replayed(
    store: Store, past: ScriptedPast, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"w{i}" for i in range(4)]
    HistoryIntake(past, [WorkloadSelector.for_workload("llm", name) for name in names], store).backfill(
        now=NOON, stopped=lambda: False
    )
    monkeypatch.setattr(module, "SHARD", 2)
    monkeypatch.setattr(module, "WARM_UP_MOST_STEPS", 3 * len(names))
    gave_way: list[None] = []
    workloads = {f"llm/{name}" for name in names}
    forecaster = DemandForecaster(
        store, workloads=workloads, ttl=timedelta(minutes=10), give_way=lambda: gave_way.append(None)
    )
    forecaster.run(MEMBERS, lead={}, now=NOON)
    portions, replayed = 2, 3
    assert len(gave_way) >= portions * (replayed + 1)
    gave_way.clear()
    assert len(list(forecaster.saved())) == len(gave_way) == portions


def test_a_restart_goes_on_where_it_was(store: Store, intake: HistoryIntake) -> None:
    filled(intake)
    first = a_forecaster(store)
    first.run(MEMBERS, lead=LEAD, now=NOON)
    again = a_forecaster(store)
    again.restore(first.saved())
    intake.collect(now=NOON + MINUTE)
    goes_on = first.run(MEMBERS, lead=LEAD, now=NOON + MINUTE)
    assert again.run(MEMBERS, lead=LEAD, now=NOON + MINUTE).forecasts == goes_on.forecasts


def test_tokens_are_forecast_beside_demand_and_never_among_it(
    store: Store, past: ScriptedPast, intake: HistoryIntake
) -> None:
    past.told = {PROMPT: 1150.0, ("output_tokens_per_s", "default"): 60.0}
    now = NOON - 10 * MINUTE
    filled(intake, now)
    forecaster = a_forecaster(store)
    run = forecaster.run(MEMBERS, lead=LEAD, now=now)
    assert [len(run.forecasts[CHAT]), sorted(run.usage)] == [1, ["output_tokens_per_s", "prompt_tokens_per_s"]]
    (tokens,) = run.usage["prompt_tokens_per_s"][CHAT]
    assert tokens.forecast.quantile(NOON + 2 * MINUTE, z=0.0) == pytest.approx(20.0 * 1150.0, rel=0.01)
    assert tokens.quality is not None
    assert run.learning == frozenset()
    assert list(forecaster.accounts(CHAT)) == ["default"]
    assert forecaster.accounts(CHAT)["default"].wape_day_before == pytest.approx(0.0, abs=1e-6)


def test_demand_is_forecast_as_if_there_were_no_tokens(
    store: Store, past: ScriptedPast, intake: HistoryIntake, tmp_path: Path
) -> None:
    filled(intake)
    alone = a_forecaster(store).run(MEMBERS, lead=LEAD, now=NOON).forecasts
    past.told = {PROMPT: 1150.0}
    (tmp_path / "other").mkdir()
    with Store.open(tmp_path / "other", now=NOON) as other:
        filled(HistoryIntake(past, [WorkloadSelector.for_workload("llm", "chat")], other))
        assert a_forecaster(other).run(MEMBERS, lead=LEAD, now=NOON).forecasts == alone


def test_what_freezes_demand_freezes_what_came_with_it(store: Store, past: ScriptedPast, intake: HistoryIntake) -> None:
    past.told = {PROMPT: 1150.0}
    filled(intake)
    forecaster = a_forecaster(store)
    forecaster.run(MEMBERS, lead=LEAD, now=NOON)
    intake.collect(now=NOON + MINUTE)

    def evidence(frozen: frozenset[SeriesKey]) -> list[float]:
        other = a_forecaster(store)
        other.restore(forecaster.saved())
        other.run(MEMBERS, lead=LEAD, frozen=frozen, now=NOON + MINUTE)
        (state,) = other._states.values()
        return [float(state.arrays["evidence"][state.keys.index(key)].sum()) for key in (KEY, PROMPT_KEY)]

    taught, mute = evidence(frozenset()), evidence(frozenset({KEY}))
    assert all(one > other for one, other in zip(taught, mute, strict=True))


def test_series_that_appear_take_nobodys_memory(
    store: Store, past: ScriptedPast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Portions of two: cut anew by name, tokens of the first workload would push the others to where they are new."""
    monkeypatch.setattr(module, "SHARD", 2)
    names = [f"w{i}" for i in range(5)]
    intake = HistoryIntake(past, [WorkloadSelector.for_workload("llm", name) for name in names], store)
    filled(intake)
    forecaster = DemandForecaster(store, workloads={f"llm/{name}" for name in names}, ttl=timedelta(minutes=10))
    forecaster.run(MEMBERS, lead={}, now=NOON)
    again = DemandForecaster(store, workloads={f"llm/{name}" for name in names}, ttl=timedelta(minutes=10))
    again.restore(forecaster.saved())
    tokens = tuple(SeriesKey(workload=f"llm/{name}", signal=PROMPT[0]) for name in names[:3])
    minutes = 2 * DAY // STEP
    store.history.append(
        Panel(keys=tokens, start=NOON - 2 * DAY, step=STEP, values=np.full((3, minutes), 500.0)), now=NOON
    )
    intake.collect(now=NOON + MINUTE)
    goes_on = forecaster.run(MEMBERS, lead={}, now=NOON + MINUTE)
    assert set(goes_on.usage[PROMPT[0]]) == {"llm/w0", "llm/w1", "llm/w2"}
    assert all(each.quality is not None for (each,) in goes_on.forecasts.values()), "no series began anew"
    restarted = again.run(MEMBERS, lead={}, now=NOON + MINUTE)
    assert (restarted.forecasts, restarted.usage) == (goes_on.forecasts, goes_on.usage)
    assert [len(state.keys) for state in forecaster._states.values()] == [2, 2, 2, 2]


def test_portions_that_nobody_needs_are_dropped_and_the_rest_renumbered(
    store: Store, past: ScriptedPast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 1)
    names = ("llm/w0", "llm/w1", "llm/w2")
    filled(HistoryIntake(past, [WorkloadSelector.for_workload("llm", name[4:]) for name in names], store))
    forecaster = DemandForecaster(store, workloads=set(names), ttl=timedelta(minutes=10))
    forecaster.run(MEMBERS, lead={}, now=NOON)
    fewer = DemandForecaster(store, workloads={"llm/w0", "llm/w2"}, ttl=timedelta(minutes=10))
    fewer.restore(forecaster.saved())
    fewer.run(MEMBERS, lead={}, now=NOON)
    assert [(name, state.keys[0].workload) for name, state in fewer._states.items()] == [(0, "llm/w0"), (1, "llm/w2")]


def test_tokens_are_cut_before_demand_is(
    store: Store, past: ScriptedPast, intake: HistoryIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_USAGE_SERIES", 1)
    past.told = {PROMPT: 1150.0, ("output_tokens_per_s", "default"): 60.0}
    filled(intake)
    run = a_forecaster(store).run(MEMBERS, lead=LEAD, now=NOON)
    assert (len(run.forecasts[CHAT]), list(run.usage)) == (1, ["output_tokens_per_s"])


def test_a_damaged_memory_is_refused_and_learnt_again(store: Store, intake: HistoryIntake) -> None:
    filled(intake)
    forecaster = a_forecaster(store)
    forecaster.run(MEMBERS, lead=LEAD, now=NOON)
    saved = {name: stored[: len(stored) // 2] for name, stored in forecaster.saved()}
    again = a_forecaster(store)
    with pytest.raises(ArtefactError):
        again.restore(saved.items())
    assert again.run(MEMBERS, lead=LEAD, now=NOON).forecasts[CHAT]


def test_a_failing_model_is_named_and_the_others_speak(store: Store, intake: HistoryIntake) -> None:
    class Broken:
        """A member with a defect."""

        model_id = "broken"
        min_history = DAY

        def predict(self, panel: Panel, *, horizons: tuple[int, ...] = ()) -> object:
            raise ZeroDivisionError("a defect")

    filled(intake)
    run = a_forecaster(store).run((*MEMBERS, Broken()), lead=LEAD, now=NOON)  # type: ignore[arg-type]
    assert run.failed == {"broken": "ZeroDivisionError: a defect"}
    assert run.forecasts[CHAT]


def test_forecasts_are_published_whole() -> None:
    board = ForecastBoard()
    assert board.latest(now=NOON) == {}
    before = board.latest(now=NOON)
    board.publish({CHAT: ()})
    assert (before, board.latest(now=NOON)) == ({}, {CHAT: ()})


@pytest.mark.parametrize(
    ("lead", "steps"),
    [
        pytest.param(timedelta(0), 1, id="at once: the bin that begins now"),
        pytest.param(timedelta(minutes=3), 4, id="three minutes reach the fourth bin"),
        pytest.param(timedelta(seconds=200), 5, id="a part of a minute counts whole"),
    ],
)
def test_lead_steps(lead: timedelta, steps: int) -> None:
    assert module._lead_steps([KEY], {CHAT: lead}) == {KEY: steps}
    assert STEP == MINUTE


# ── While nothing is measured ─────────────────────────────────────────────────────────────────────────────────


def test_half_an_hour_without_measurements_the_day_before_stands_in_and_steps_back_when_they_return(
    intake: HistoryIntake, past: ScriptedPast, store: Store
) -> None:
    dark = NOON - timedelta(hours=1)
    filled(intake, now=dark)
    forecaster, told = a_forecaster(store), {}
    for minutes in (0, 29, 31, 55, 600):
        now = dark + minutes * MINUTE
        run = forecaster.run(MEMBERS, lead=LEAD, now=now)
        told[minutes] = [(each.stand_in, each.forecast.model) for each in run.forecasts.get(CHAT, ())]
        if minutes == 55:
            (each,) = run.forecasts[CHAT]
    assert [stand_in for each in told.values() for stand_in, _ in each] == [False, False, True, True, True]
    assert {name for _, name in (*told[31], *told[55], *told[600])} == {"day-before"}
    assert each.quality is None
    assert each.forecast.expires_at == dark + 65 * MINUTE
    medians = [round(each.forecast.quantile(NOON + ahead * MINUTE, z=0.0)) for ahead in (-4, 10)]
    assert medians == [12, 20], "it doubles at noon as it did the day before, within a quarter of an hour"
    back = dark + 601 * MINUTE
    intake.collect(now=back)
    run = forecaster.run(MEMBERS, lead=LEAD, now=back)
    assert [each.stand_in for each in run.forecasts[CHAT]] == [False]


def test_nothing_stands_in_for_a_workload_that_was_never_seen(store: Store) -> None:
    assert a_forecaster(store).run(MEMBERS, lead=LEAD, now=NOON).forecasts == {}
