"""How a workload's forecasts came about: live, and from the data file alone; and how it is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon_cases import a_tick
from forecaster.models.seasonal import LastValue, SeasonalNaive
from forecaster.types import HORIZONS, STEP, Forecast, Forecaster, Panel, SeriesKey
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot
from scaler.adapters.accounts import ENGINE_BLOB, stored_accounts
from scaler.adapters.board import View
from scaler.adapters.demand import KNOWN_BLOB
from scaler.adapters.documents import Document, forecast_document, workloads_document
from scaler.adapters.forecasts import DemandForecaster
from scaler.adapters.intake import DEMAND
from scaler.adapters.store import FILE_NAME, Store
from scaler.daemon import upkeep
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent, ScheduledRule, TimeWindow
from scaler.policy.steering import CostRule

CHAT = "llm/chat"
KEYS = tuple(
    SeriesKey(workload=workload, signal=DEMAND, request_class=name)
    for workload, name in ((CHAT, "default"), (CHAT, "gui"), ("llm/docs", "default"))
)
MEMBERS: tuple[Forecaster, ...] = (LastValue(), SeasonalNaive())
DAYS = 3


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with three days of demand, the same every day; the second class is noise about it."""
    place = tmp_path_factory.mktemp("data")
    minutes = np.arange(DAYS * 1440)
    wave = 10.0 + 5.0 * np.sin(2 * np.pi * minutes / 1440)
    noise = np.random.default_rng(1).normal(0.0, 2.0, minutes.size)
    values = np.stack([wave, np.abs(10.0 + noise), wave])
    with Store.open(place, now=NOON) as store:
        store.history.append(Panel(keys=KEYS, start=NOON - DAYS * 1440 * STEP, step=STEP, values=values), now=NOON)
    return place


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A copy of it: what a test stores is nobody else's."""
    return shutil.copytree(filled, tmp_path / "data")


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store.open(folder, now=NOON) as opened:
        yield opened


@pytest.fixture
def forecaster(store: Store) -> DemandForecaster:
    made = DemandForecaster(store, workloads={CHAT, "llm/docs"}, ttl=timedelta(minutes=10))
    made.run(MEMBERS, lead={}, now=NOON)
    return made


def test_both_classes_of_a_workload_are_told_and_nobody_elses(forecaster: DemandForecaster) -> None:
    told = forecaster.accounts(CHAT)
    assert set(told) == {"default", "gui"}
    assert forecaster.accounts("llm/other") == {}
    column = HORIZONS.index(15)
    assert told["default"].standing.weights[column][1] > 0.99  # every day is like the one before,
    assert told["default"].wape_day_before == pytest.approx(0.0, abs=1e-6)
    assert told["gui"].wape_day_before == pytest.approx(2.26 / 10.0, abs=0.03)  # 2σ/√π of noise about 10


def test_the_data_file_tells_what_the_running_daemon_told(
    forecaster: DemandForecaster, store: Store, folder: Path
) -> None:
    file = folder / FILE_NAME
    assert stored_accounts(file, CHAT, now=NOON) == {}
    for shard, value in forecaster.saved():
        store.save_blob(f"{ENGINE_BLOB}/{shard}", value, now=NOON)
    assert stored_accounts(file, CHAT, now=NOON) == forecaster.accounts(CHAT)


def test_a_damaged_portion_is_passed_over(forecaster: DemandForecaster, store: Store, folder: Path) -> None:
    ((_, value),) = forecaster.saved()
    store.save_blob(f"{ENGINE_BLOB}/0000", b"not an archive", now=NOON)
    store.save_blob(f"{ENGINE_BLOB}/0001", value, now=NOON)
    store.save_blob(KNOWN_BLOB, b"nor this", now=NOON)
    assert set(stored_accounts(folder / FILE_NAME, CHAT, now=NOON)) == {"default", "gui"}


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"headstart\.db"):
        stored_accounts(tmp_path / FILE_NAME, CHAT, now=NOON)


def test_the_daemon_stores_under_the_name_that_is_read() -> None:
    assert upkeep.ENGINE_BLOB == ENGINE_BLOB


# ── As a document ─────────────────────────────────────────────────────────────────────────────────────────────


SALE = ScheduledEvent(
    name="sale",
    start=NOON + 20 * MINUTE,
    end=NOON + 80 * MINUTE,
    expected_peak=(ExpectedDemand(request_class="default", rps=80.0),),
    demand_ratio=2.5,
    warm_up=timedelta(0),
)
LUNCH = TimeWindow(name="lunch", start=(NOON + 10 * MINUTE).time(), end=(NOON + 15 * MINUTE).time(), min_replicas=4)
LATER = replace(SALE, name="later", start=NOON + timedelta(days=1), end=NOON + timedelta(days=2))


def shown(forecast: Forecast, *, scheduled: ScheduledRule, accounts: Any = None) -> Document:
    snapshot = a_snapshot(rps=12.0, desired=2, forecasts=(forecast,))
    policy = a_policy(scheduled=scheduled, start_time=timedelta(minutes=3))
    (record,) = a_tick(snapshot, policy).records
    return forecast_document(CHAT, snapshot.forecasts, now=NOON, record=record, accounts=accounts)


def test_the_document_says_who_spoke_and_how_well(forecaster: DemandForecaster) -> None:
    document = shown(a_forecast(12.0), scheduled=ScheduledRule(), accounts=forecaster.accounts(CHAT))
    (only,) = document["classes"]
    assert only["lead_horizon_s"] == 240.0  # a start of three minutes: an order reaches the fourth
    assert [each["model"] for each in only["members"]] == ["last-value", "seasonal-naive"]
    assert [each["seasonal"] for each in only["members"]] == [False, True]
    for i in range(len(HORIZONS)):
        assert sum(each["weights"][i] for each in only["members"]) == pytest.approx(1.0)
    assert only["members"][0]["loss_over_last_value"] == 1.0
    assert only["seasonal_ratio"] == only["members"][1]["weights"][HORIZONS.index(4)]
    assert only["weights_at"] == "2026-03-02T12:00:00Z"
    assert only["accuracy"] == {
        "scored_bins": 360, "coverage_95": 0.95, "wape": 0.1, "wape_last_value": 0.12,
        "wape_day_before": pytest.approx(0.0, abs=1e-6),
    }  # fmt: skip
    assert document["unknown"] == []


def test_what_is_not_known_is_said_and_nothing_is_renamed() -> None:
    document = forecast_document(CHAT, a_snapshot(forecasts=(a_forecast(12.0),), quality=None).forecasts, now=NOON)
    (only,) = document["classes"]
    assert {"request_class", "model", "issued_at", "expires_at", "expired", "quality", "points"} <= set(only)
    assert (only["members"], only["accuracy"], document["calendar"]) == ([], None, None)
    assert [text.partition(" (")[0] for text in document["unknown"]] == [
        "default: the members' weights",
        "default: the accuracy",
    ]


def test_an_account_of_other_horizons_is_not_this_forecasts(forecaster: DemandForecaster) -> None:
    longer = replace(a_forecast(12.0), horizons=HORIZONS[:-1], values=a_forecast(12.0).values[:-1])
    document = shown(longer, scheduled=ScheduledRule(), accounts=forecaster.accounts(CHAT))
    assert document["classes"][0]["members"] == []


def test_the_calendar_is_what_lies_within_the_forecasts_reach() -> None:
    document = shown(a_forecast(12.0), scheduled=ScheduledRule(events=(SALE, LATER), windows=(LUNCH,)))
    assert document["calendar"] == {
        "until": "2026-03-02T12:30:00Z",
        "events": [
            {
                "name": "sale", "start": "2026-03-02T12:20:00Z", "end": "2026-03-02T13:20:00Z", "demand_ratio": 2.5,
                "ordered_from": "2026-03-02T12:17:00Z", "replicas": 8,
            }
        ],
        "windows": [
            {
                "name": "lunch", "from": "2026-03-02T12:10:00Z", "until": "2026-03-02T12:15:00Z",
                "min_replicas": 4, "max_replicas": None,
            }
        ],
    }  # fmt: skip
    multiples = dict(zip(HORIZONS, document["classes"][0]["usual_multiples"], strict=True))
    assert (multiples[20], multiples[25]) == (1.0, 2.5)


def test_an_event_that_asks_for_no_replicas_but_lifts_the_demand_is_shown() -> None:
    holiday = replace(SALE, name="holiday", expected_peak=(), demand_ratio=0.4)
    silent = replace(SALE, name="only a note", expected_peak=(), demand_ratio=None)
    (event,) = shown(a_forecast(12.0), scheduled=ScheduledRule(events=(holiday, silent)))["calendar"]["events"]
    assert (event["name"], event["replicas"], event["ordered_from"]) == ("holiday", 0, None)


# ── The target that the forecast is steered to ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cost", "target", "note"),
    [
        pytest.param(None, {"ratio": 0.01, "balance_ratio": None, "cut": False}, "", id="a share"),
        pytest.param(
            CostRule(missed_minute=4.0, gpu_minute=0.05),
            {"ratio": 0.0125, "balance_ratio": 0.0125, "cut": False},
            "",
            id="prices",
        ),
        pytest.param(
            CostRule(missed_minute=2.0, gpu_minute=1.0),
            {"ratio": 0.2, "balance_ratio": 0.5, "cut": True},
            "20 % of the minutes may be missed, the most that is steered to; the costs balance at 50 %",
            id="prices that are cut",
        ),
        pytest.param(
            CostRule(missed_minute=5e-324, gpu_minute=1e308),
            {"ratio": 0.2, "balance_ratio": None, "cut": True},
            "20 % of the minutes may be missed, the most",
            id="prices without a quotient",
        ),
    ],
)
def test_get_shows_the_target_and_says_when_it_is_cut(cost: CostRule | None, target: dict[str, Any], note: str) -> None:
    report = a_tick(a_snapshot(rps=12.0, desired=2), a_policy(cost=cost))
    (row,) = workloads_document(View(report=report))["items"]
    assert row["missed_target"] == pytest.approx(target)
    assert [text.startswith(note) for text in row["notes"]] == ([True] if note else [])
