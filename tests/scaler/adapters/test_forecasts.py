"""From a metrics source through the stored history to the forecasts in force: over real stores, with a scripted past."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
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


def test_a_restart_goes_on_where_it_was(store: Store, intake: HistoryIntake) -> None:
    filled(intake)
    first = a_forecaster(store)
    first.run(MEMBERS, lead=LEAD, now=NOON)
    again = a_forecaster(store)
    again.restore(first.saved())
    intake.collect(now=NOON + MINUTE)
    goes_on = first.run(MEMBERS, lead=LEAD, now=NOON + MINUTE)
    assert again.run(MEMBERS, lead=LEAD, now=NOON + MINUTE).forecasts == goes_on.forecasts


def test_a_damaged_memory_is_refused_and_learnt_again(store: Store, intake: HistoryIntake) -> None:
    filled(intake)
    forecaster = a_forecaster(store)
    forecaster.run(MEMBERS, lead=LEAD, now=NOON)
    saved = {name: stored[: len(stored) // 2] for name, stored in forecaster.saved().items()}
    again = a_forecaster(store)
    with pytest.raises(ArtefactError):
        again.restore(saved)
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
