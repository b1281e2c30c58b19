"""What requests are made of, from the stored minutes and the forecasts to the page, the document and the log."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from daemon_cases import a_tick
from forecaster.errors import HistoryError
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, Panel, SeriesKey
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot
from scaler.adapters.board import Board, View
from scaler.adapters.documents import forecast_document
from scaler.adapters.forecasts import ForecastRun
from scaler.adapters.intake import DEMAND
from scaler.adapters.request_shape import Amount
from scaler.adapters.store import FILE_NAME, Store
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.usage import (
    USAGE_BLOB,
    Reminder,
    Usage,
    UsageWatch,
    compared_now,
    from_bytes,
    stored_usage,
    to_bytes,
)
from scaler.commands import watching
from scaler.commands.printing import Output
from scaler.policy.capacity import CapacityProfile, ClassCapacity, RequestTokens
from scaler.policy.types import DemandForecast

CHAT = "llm/chat"
PROMPT, OUTPUT = "prompt_tokens_per_s", "output_tokens_per_s"
KEY = SeriesKey(workload=CHAT, signal=DEMAND)
TOKENS = RequestTokens(input_tokens=1000.0, output_tokens=50.0)
PROFILE = CapacityProfile(name="vl", classes=(ClassCapacity(name="default", max_rps=8.0, tokens=TOKENS),))
POLICY = a_policy(profile=PROFILE, start_time=3 * MINUTE)
NO_RUN = ForecastRun()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path, now=NOON) as opened:
        yield opened


def held(store: Store, per_request: float, *, until: datetime = NOON, signal: str = PROMPT, rps: float = 10.0) -> None:
    """Twenty minutes of requests that each hold so much."""
    keys = (KEY, replace(KEY, signal=signal))
    values = np.array([[rps] * 20, [rps * per_request] * 20])
    store.history.append(Panel(keys=keys, start=until - 20 * MINUTE, step=STEP, values=values), now=until)


def forecasts(rps: float, **used_per_s: float) -> ForecastRun:
    def flat(value: float) -> dict[str, tuple[DemandForecast, ...]]:
        return {CHAT: (DemandForecast(forecast=a_forecast(value, spread_rps=0.1 * value)),)}

    return ForecastRun(forecasts=flat(rps), usage={signal: flat(value) for signal, value in used_per_s.items()})


def an_amount(now: float = 1500.0, *, left: bool = True, signal: str = PROMPT) -> Amount:
    return Amount(request_class="default", signal=signal, profile=1000.0, now=now, ahead=1600.0, left=left)


def a_usage(*amounts: Amount, at: datetime = NOON, warned: bool = True) -> Usage:
    return Usage(
        at=at,
        forecasts={CHAT: {PROMPT: forecasts(10.0, **{PROMPT: 16_000.0}).usage[PROMPT][CHAT]}},
        amounts={CHAT: amounts},
        warnings={CHAT: ("they have left",)} if warned else {},
    )


# ── The watch ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_longer_requests_are_warned_of_with_the_way_out(store: Store) -> None:
    held(store, 1500.0)
    usage = UsageWatch(store).look(forecasts(20.0, **{PROMPT: 32_000.0}), [POLICY], now=NOON + timedelta(seconds=3))
    (amount,) = usage.amounts[CHAT]
    assert (amount.now, amount.ahead, amount.left) == (1500.0, 1600.0, True)
    (said,) = usage.warnings[CHAT]
    assert "1500 prompt tokens a request, 1600 ahead instead of 1000 (+50 %)" in said
    assert "; fix: measure max_rps with such requests" in said


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(a_policy(), id="a profile that tells no tokens"),
        pytest.param(
            a_policy(profile=replace(PROFILE, classes=(ClassCapacity(name="default", max_rps=8.0),))), id="nor this one"
        ),
    ],
)
def test_what_cannot_be_compared_is_shown_all_the_same(store: Store, policy: object) -> None:
    held(store, 1500.0)
    usage = UsageWatch(store).look(forecasts(20.0, **{PROMPT: 32_000.0}), [policy], now=NOON)  # type: ignore[list-item]
    assert (dict(usage.amounts), dict(usage.warnings)) == ({}, {})
    assert list(usage.forecasts[CHAT]) == [PROMPT]


def test_who_tells_no_tokens_is_not_in_it(store: Store) -> None:
    store.history.append(Panel(keys=(KEY,), start=NOON - MINUTE, step=STEP, values=np.array([[5.0]])), now=NOON)
    usage = UsageWatch(store).look(forecasts(20.0), [POLICY], now=NOON)
    assert usage == Usage(at=NOON)


def test_near_the_tolerance_it_stays_as_it_was_and_through_a_quiet_time_too(store: Store) -> None:
    """50 % off, then 22 %, then nobody for a while, then 22 % again, then 5 %, then 22 %."""
    watch, left = UsageWatch(store), []
    for step, per_request in enumerate((1500.0, 1220.0, None, 1220.0, 1050.0, 1220.0)):
        now = NOON + step * 20 * MINUTE
        held(store, per_request or 0.0, until=now, rps=10.0 if per_request else 0.0)
        left.append(CHAT in watch.look(NO_RUN, [POLICY], now=now).warnings)
    assert left == [True, True, False, True, False, False]


# ── Reminders ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_warning_is_said_when_it_begins_when_it_grows_and_every_six_hours() -> None:
    reminder, said = Reminder(), []
    output = an_amount(signal=OUTPUT)
    for minute in range(13 * 60):
        at = NOON + minute * MINUTE
        amounts = (an_amount(), output) if minute >= 30 else (an_amount(),)
        flaps = 60 <= minute < 300 and minute % 2 == 1
        if reminder.due(a_usage(*amounts, at=at, warned=not flaps)):
            said.append(minute)
    assert said == [0, 30, 30 + 360, 30 + 720]


def test_a_clock_that_is_put_back_by_a_day_does_not_silence_it() -> None:
    reminder = Reminder()
    assert reminder.due(a_usage(an_amount()))
    assert not reminder.due(a_usage(an_amount(), at=NOON + MINUTE))
    assert reminder.due(a_usage(an_amount(), at=NOON - timedelta(days=1)))


# ── Without a daemon ──────────────────────────────────────────────────────────────────────────────────────────


class LastMinutes:
    """A source that knows twenty minutes; its clock moves on between two answers, so the second is a bin longer."""

    def __init__(self, *, demand: Mapping[str, float], used: Mapping[str, float]) -> None:
        self._demand, self._used = demand, used

    def history(
        self, selectors: Sequence[WorkloadSelector], signal: str, *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        keys = tuple(SeriesKey(workload=CHAT, signal=signal, request_class=name) for name in self._demand)
        values = np.array([[value] * ((end - start) // step - 1) for value in self._demand.values()])
        return Panel(keys=keys, start=start, step=step, values=values.reshape(len(keys), -1))

    def evidence(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        raise AssertionError

    def usage(
        self,
        selectors: Sequence[WorkloadSelector],
        classes: Mapping[str, Collection[str]],
        *,
        start: datetime,
        end: datetime,
        step: timedelta,
    ) -> Panel:
        keys = tuple(
            SeriesKey(workload=CHAT, signal=signal, request_class=name)
            for signal in self._used
            for name in classes[CHAT]
        )
        values = np.array([[self._used[key.signal]] * ((end - start) // step) for key in keys])
        return Panel(keys=keys, start=start, step=step, values=values)


def test_the_last_minutes_are_compared_for_whoever_asks() -> None:
    source = LastMinutes(demand={"default": 10.0}, used={PROMPT: 15_000.0, OUTPUT: 500.0})
    chat = WorkloadSelector.for_workload("llm", "chat")
    found = compared_now(source, [chat], {CHAT: PROFILE}, now=NOON)
    assert [(each.signal, each.now, each.left) for each in found[(CHAT, "default")]] == [
        (OUTPUT, 50.0, False),
        (PROMPT, 1500.0, True),
    ]


def test_without_requests_nothing_is_compared() -> None:
    source = LastMinutes(demand={"default": 0.0}, used={PROMPT: 0.0})
    chat = WorkloadSelector.for_workload("llm", "chat")
    assert compared_now(source, [chat], {CHAT: PROFILE}, now=NOON) == {}


# ── Stored, scraped, shown ────────────────────────────────────────────────────────────────────────────────────


def test_it_is_kept_for_whoever_reads_the_data_file(store: Store, tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    assert stored_usage(file) is None
    usage = a_usage(an_amount())
    store.save_blob(USAGE_BLOB, to_bytes(usage), now=NOON)
    assert stored_usage(file) == usage
    store.save_blob(USAGE_BLOB, b'{"of": "another version"}', now=NOON)
    assert stored_usage(file) is None
    with pytest.raises(HistoryError, match="unreadable"):
        from_bytes(b"[]")


def test_it_is_exported_for_workloads_of_the_last_tick(store: Store) -> None:
    board = Board()
    telemetry = Telemetry(board)
    tick = a_tick(a_snapshot(rps=10.0, desired=2), POLICY)
    board.publish(View(report=tick))
    usage = a_usage(an_amount())
    other = {"old/gone": usage.forecasts[CHAT]}
    board.publish_usage(
        replace(usage, forecasts={**usage.forecasts, **other}, amounts={**usage.amounts, "old/gone": (an_amount(),)})
    )
    shown = {
        (metric.name, tuple(sample.labels.values())): sample.value
        for metric in telemetry.registry.collect()
        for sample in metric.samples
        if "usage" in metric.name or "amount" in metric.name
    }
    chat = ("llm", "chat", "default", PROMPT)
    amounts = {labels[-1]: value for (name, labels), value in shown.items() if name == "headstart_request_amount"}
    assert amounts == {"measured": 1500.0, "forecast": 1600.0, "profile": 1000.0}
    assert shown["headstart_forecast_usage", (*chat, "0.5", "lead")] == 16_000.0
    assert shown["headstart_forecast_usage", (*chat, "0.95", "30m")] > 16_000.0
    assert len(shown) == 3 + 16
    assert not any("gone" in labels for _, labels in shown)


class Told:
    """A source with one forecast document."""

    def __init__(self, document: dict[str, object]) -> None:
        self._document = document

    def workloads(self) -> dict[str, object]:
        raise AssertionError

    def decision(self, workload: str, at: datetime | None) -> dict[str, object]:
        raise AssertionError

    def forecast(self, workload: str) -> dict[str, object]:
        return self._document


def a_document(usage: Usage | None, *, now: datetime = NOON) -> dict[str, object]:
    snapshot = a_snapshot(rps=10.0, desired=2, forecasts=(a_forecast(10.0),))
    (record,) = a_tick(snapshot, POLICY).records
    return forecast_document(CHAT, snapshot.forecasts, now=now, record=record, usage=usage)


def test_it_is_in_the_document_beside_demand() -> None:
    document = a_document(a_usage(an_amount()))
    (used,) = document["usage"]  # type: ignore[misc]
    assert (used["signal"], used["unit"], used["request_class"]) == (PROMPT, "tokens/s", "default")  # type: ignore[index]
    assert used["points"][0]["quantiles"]["0.5"] == 16_000.0  # type: ignore[index]
    assert document["requests"] == [
        {
            "request_class": "default",
            "signal": PROMPT,
            "now": 1500.0,
            "ahead": 1600.0,
            "profile": 1000.0,
            "left_profile": True,
        }
    ]
    silent = a_document(None)
    assert (silent["usage"], silent["requests"]) == ([], [])
    assert document["unknown"] == silent["unknown"]


def test_a_person_sees_it_beside_demand(capsys: pytest.CaptureFixture[str]) -> None:
    watching.forecast(Told(a_document(a_usage(an_amount()))), CHAT, Output.TABLE)  # type: ignore[arg-type]
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    head = next(i for i, line in enumerate(lines) if line.startswith("CLASS USE"))
    assert lines[head] == "CLASS USE 50 % AT 1m 95 % AT 1m 50 % AT 4m 95 % AT 4m 50 % AT 30m 95 % AT 30m"
    assert lines[head + 2].startswith("default prompt tokens/s 16000 ")
    said = (
        "requests default: 1500 prompt tokens a request over 20 minutes, 1600 at the lead time; the profile says 1000"
    )
    assert f"{said} LEFT THE PROFILE" in lines


def test_an_old_one_says_so_and_none_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    late = a_document(a_usage(an_amount(left=False)), now=NOON + timedelta(hours=1))
    watching.forecast(Told(late), CHAT, Output.TABLE)  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "EXPIRED 12:10:00" in next(line for line in shown.splitlines() if "prompt tokens/s" in line)
    assert "LEFT" not in shown
    watching.forecast(Told(a_document(None)), CHAT, Output.TABLE)  # type: ignore[arg-type]
    assert "tokens" not in capsys.readouterr().out
