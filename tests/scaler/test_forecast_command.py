"""`headstart forecast W` as a person reads it: the band, who spoke, how well it did, and the calendar.

Properties: a band never is wider than its scale, and its parts stand in the order of the quantiles.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon_cases import a_tick
from forecaster.models.ensemble import Standing
from forecaster.types import HORIZONS, Forecast
from policy_cases import GOOD, MINUTE, NOON, a_forecast, a_policy, a_snapshot
from scaler.adapters.accounts import Account
from scaler.adapters.documents import forecast_document
from scaler.commands import watching
from scaler.commands.printing import Output
from scaler.commands.watching import BAND_WIDTH, band
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent, ScheduledRule, TimeWindow


class Told:
    """A source with one forecast document, as the daemon's API or a data folder answers it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document: dict[str, Any] = json.loads(json.dumps(document))

    def workloads(self) -> dict[str, Any]:
        raise AssertionError

    def decision(self, workload: str, at: datetime | None) -> dict[str, Any]:
        raise AssertionError

    def forecast(self, workload: str) -> dict[str, Any]:
        return self.document


def an_account(at: datetime = NOON) -> Account:
    return Account(
        standing=Standing(
            at=at,
            horizons=HORIZONS,
            members=("last-value", "holt-winters@1f"),
            weights=tuple((1.0 - h / 40.0, h / 40.0) for h in HORIZONS),
            losses=((2.0, 1.5),) * len(HORIZONS),
        ),
        wape_day_before=0.31,
    )


def a_document(
    forecast: Forecast, *, scheduled: ScheduledRule | None = None, account: Account | None = None
) -> dict[str, Any]:
    snapshot = a_snapshot(rps=12.0, desired=2, forecasts=(forecast,), quality=GOOD)
    policy = a_policy(scheduled=scheduled or ScheduledRule(), start_time=timedelta(minutes=3))
    (record,) = a_tick(snapshot, policy).records
    accounts = {} if account is None else {"default": account}
    return forecast_document("llm/chat", snapshot.forecasts, now=NOON, record=record, accounts=accounts)


def printed(document: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    watching.forecast(Told(document), "llm/chat", Output.TABLE)
    return capsys.readouterr().out.splitlines()


RAMP = a_forecast(20.0, spread_rps=10.0, later_rps={5: 50.0})


def test_everything_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    sale = ScheduledEvent(
        name="sale",
        start=NOON + 20 * MINUTE,
        end=NOON + 80 * MINUTE,
        expected_peak=(ExpectedDemand(request_class="default", rps=80.0),),
        demand_ratio=2.5,
        warm_up=timedelta(0),
    )
    lunch = TimeWindow(name="lunch", start=NOON.time(), end=(NOON + 5 * MINUTE).time(), min_replicas=4, max_replicas=9)
    lines = printed(
        a_document(RAMP, scheduled=ScheduledRule(events=(sale,), windows=(lunch,)), account=an_account()), capsys
    )
    assert lines[0] == "llm/chat  default  by test  issued 12:00:00, valid until 12:10:00  (requests/s)"
    assert lines[1].split() == ["AT", "AHEAD", "50", "%", "90", "%", "95", "%", "99", "%", "0", "TO", "80"]
    first, fifth = lines[3], lines[7]
    assert first.split()[:6] == ["12:00:00", "1m", "20", "30", "40", "50"]
    assert first.endswith("          │█████▓▓▓▓▓░░░░")
    assert fifth.endswith("│█████▓▓▓▓▓░░░░░")
    assert fifth.index("│") - first.index("│") == 14  # 30 of 80 on a scale of 39
    assert [" ".join(line.split()) for line in (lines[16], *lines[18:20])] == [
        "MEMBER AT 1m AT 4m AT 8m AT 30m LOSS/LAST VALUE AT 4m",
        "last-value 98 % 90 % 80 % 25 % 1.00",
        "holt-winters@1f (seasonal) 2 % 10 % 20 % 75 % 0.75",
    ]
    assert lines[-4:] == [
        "seasonal  10.0 % of the forecast 4m ahead repeats earlier days' clock time",
        "accuracy  over 360 minutes 4m ahead error 10.0 % (last value 12.0 %, as the day before 31.0 %); "
        "95.0 % lay under the 95 % quantile",
        "calendar  event 'sale', 2026-03-02 12:20 to 2026-03-02 13:20: usual demand times 2.5, at least 8 replicas from"
        " 12:17:00",
        "calendar  window 'lunch', 12:00:00 to 12:05:00: at least 4, at most 9 replicas",
    ]


def test_weights_of_an_older_memory_are_dated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "weights as of 11:53:00" in printed(a_document(RAMP, account=an_account(NOON - 7 * MINUTE)), capsys)
    assert not any(line.startswith("weights as of") for line in printed(a_document(RAMP, account=an_account()), capsys))


def test_what_is_not_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(a_document(RAMP), capsys)
    assert lines[-2] == "calendar  no event and no window until 12:30:00"
    assert lines[-1].startswith("unknown   default: the members' weights (")
    assert any(line.startswith("accuracy  ") and line.count("%") == 4 for line in lines)


def test_the_answer_of_an_older_daemon_is_shown_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    document = a_document(RAMP, account=an_account())
    kept = {"request_class", "model", "issued_at", "expires_at", "expired", "quality", "points"}
    document["classes"] = [{name: each[name] for name in kept} for each in document["classes"]]
    del document["calendar"], document["unknown"]
    lines = printed(document, capsys)
    assert len(lines) == 3 + len(HORIZONS)


def test_json_is_the_document_itself(capsys: pytest.CaptureFixture[str]) -> None:
    document = a_document(RAMP, account=an_account())
    watching.forecast(Told(document), "llm/chat", Output.JSON)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(document))


def test_no_forecast_yet_still_has_a_calendar(capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = a_tick(a_snapshot(rps=1.0), a_policy()).records
    lines = printed(forecast_document("llm/chat", (), now=NOON, record=record), capsys)
    assert lines == [
        "no forecast for llm/chat yet: the load rule alone decides, with its own margin",
        "calendar  no event and no window until 12:30:00",
    ]


@pytest.mark.parametrize(
    ("quantiles", "top", "drawn"),
    [
        pytest.param([0.0, 0.0, 0.0, 0.0], 0.0, "", id="nothing at all"),
        pytest.param([0.0, 0.0, 0.0, 0.0], 9.0, "│", id="zero on a scale"),
        pytest.param([39.0, 39.0, 39.0, 39.0], 39.0, " " * 39 + "│", id="no spread"),
        pytest.param([2.0, 4.0, 5.0, 7.0], 39.0, "  │██▓░░", id="each level its shade"),
        pytest.param([2.0, None, 5.0, 7.0], 39.0, "", id="a number that JSON does not have"),
    ],
)
def test_a_band(quantiles: list[float | None], top: float, drawn: str) -> None:
    assert band(quantiles, top) == drawn


@given(st.lists(st.floats(min_value=0.0, max_value=1e12), min_size=4, max_size=4).map(sorted))
def test_a_band_fits_its_scale(quantiles: list[float]) -> None:
    drawn = band(quantiles, quantiles[-1])
    assert len(drawn) <= BAND_WIDTH
    assert drawn.lstrip(" │") == "".join(sorted(drawn.lstrip(" │"), key="█▓░".index))
