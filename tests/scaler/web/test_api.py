"""The daemon's HTTP interface, over a real server on loopback: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from daemon_cases import a_tick, without_replicas
from forecaster.models.ensemble import Standing
from forecaster.types import HORIZONS, Blind, BlindReason, ForecastQuality
from inference.gateway.shares import parse_shares
from policy_cases import NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.adapters.accounts import Account
from scaler.adapters.board import Board, View
from scaler.adapters.states import statuses
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.watchdog import Health
from scaler.loop import TickReport
from scaler.ports import DecisionRecord, Outcome
from scaler.web.app import Sources, create_app
from scaler.web.server import WebServer

SEEN = a_snapshot(rps=12.5, desired=2, forecasts=(a_forecast(20.0, spread_rps=1.0),))
TICK = a_tick(SEEN, a_policy(), state=settled(SEEN, a_policy()))


@dataclass
class OneRecord:
    """A journal that holds one decision, in force from noon on."""

    record: DecisionRecord = field(default_factory=lambda: TICK.records[0])

    def find(self, workload: str, *, at: datetime) -> tuple[DecisionRecord, Outcome | None] | None:
        return (self.record, None) if workload == "llm/chat" and at >= NOON else None


@dataclass
class Api:
    """A served application."""

    port: int

    def ask(
        self, path: str, *, method: str = "GET", host: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (JSON where it is), headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {"Host": host or f"127.0.0.1:{self.port}", **(headers or {})}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            text = answer.read().decode()
            kind = answer.headers.get_content_type()
            return (
                answer.status,
                json.loads(text) if kind == "application/json" and text else text,
                dict(answer.headers),
            )
        finally:
            connection.close()


@contextmanager
def serving(
    report: TickReport | None = TICK,
    *,
    alive: bool = True,
    token_file: Path | None = None,
    accounts: Mapping[str, Mapping[str, Account]] = MappingProxyType({}),
    also: Collector | None = None,
) -> Iterator[Api]:
    board = Board()
    if report is not None:
        notes = {"llm/chat": ("every class: e2e_p95_s 1.2 s is judged at the bucket edge 1 s",)}
        board.publish(View(report=report, statuses=statuses(report, {}), notes=notes))
    health = Health(alive=alive, since=NOON, reason="ticks finish" if alive else "no tick has finished for 200 s")
    registry = Telemetry(board).registry
    if also is not None:
        registry.register(also)
    app = create_app(
        Sources(
            board=board,
            registry=registry,
            health=lambda: health,
            ready=lambda: report is not None,
            records=OneRecord(),
            accounts=lambda workload: accounts.get(workload, {}),
            clock=lambda: NOON,
        ),
        token_file=token_file,
    )
    server = WebServer(app, host="127.0.0.1", port=0)
    server.start()
    try:
        yield Api(port=server.port)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with serving() as served:
        yield served


def test_workloads_show_state_scale_and_what_differs_from_the_settings(api: Api) -> None:
    status, document, _ = api.ask("/api/v1/workloads")
    assert status == 200
    assert (document["apiVersion"], document["kind"], document["at"]) == (
        "headstart/v1",
        "WorkloadList",
        "2026-03-02T12:00:00Z",
    )
    (row,) = document["items"]
    assert (row["workload"], row["mode"], row["state"], row["since"]) == (
        "llm/chat",
        "active",
        "ACTIVE",
        "2026-03-02T12:00:00Z",
    )
    assert row["replicas"] == {
        "current": 2, "desired": 3, "ready": 2, "starting": 0, "unschedulable": 0, "failed": 0, "min": 1, "max": 100
    }  # fmt: skip
    assert row["demand_rps"] == {"default": 12.5}
    assert row["notes"] == ["every class: e2e_p95_s 1.2 s is judged at the bucket edge 1 s"]


def test_one_workload_has_its_readings(api: Api) -> None:
    status, document, _ = api.ask("/api/v1/workloads/llm/chat")
    assert (status, document["kind"], document["workload"]) == (200, "Workload", "llm/chat")
    assert document["signals"]["classes"][0]["demand_rps"] == {"value": 12.5, "age_s": 0.0, "kind": "known"}


def test_explain_is_the_decision_record(api: Api) -> None:
    status, document, _ = api.ask("/api/v1/workloads/llm/chat/explain")
    assert (status, document["kind"]) == (200, "Decision")
    assert [each["rule"] for each in document["decision"]["proposals"]] == ["load", "predictive"]
    assert (document["decision"]["action"], document["decision"]["target"]) == ("out", 3)
    assert document["snapshot"]["replicas"]["desired"] == 2


@pytest.mark.parametrize(
    ("at", "status"),
    [
        pytest.param("2026-03-02T12:30:00Z", 200, id="in the journal"),
        pytest.param("2026-03-02T12:30:00", 200, id="without a zone is UTC"),
        pytest.param("2026-03-02T14:30:00+02:00", 200, id="a plus that was not quoted"),
        pytest.param("2026-03-02T11:30:00Z", 404, id="before the journal begins"),
        pytest.param("yesterday", 400, id="no time"),
    ],
)
def test_explain_at_a_moment(api: Api, at: str, status: int) -> None:
    answered, document, _ = api.ask(f"/api/v1/workloads/llm/chat/explain?at={at}")
    assert answered == status
    assert (status == 200) == ("decision" in document)


def test_the_forecast_has_a_time_for_each_quantile(api: Api) -> None:
    status, document, _ = api.ask("/api/v1/workloads/llm/chat/forecast")
    assert status == 200
    (only,) = document["classes"]
    assert only["points"][1] == {
        "at": "2026-03-02T12:01:00Z",
        "horizon_s": 120.0,
        "quantiles": {"0.5": 20.0, "0.9": 21.0, "0.95": 22.0, "0.99": 23.0},
    }
    assert (only["model"], only["expired"]) == ("test", False)


def test_the_forecast_is_served_with_what_made_it() -> None:
    told = Account(
        standing=Standing(
            at=NOON,
            horizons=HORIZONS,
            members=("last-value", "seasonal-naive"),
            weights=((0.25, 0.75),) * len(HORIZONS),
            losses=((2.0, 1.0),) * len(HORIZONS),
        ),
        wape_day_before=float("inf"),
    )
    with serving(accounts={"llm/chat": {"default": told}}) as api:
        document = api.ask("/api/v1/workloads/llm/chat/forecast")[1]
    (only,) = document["classes"]
    assert [(each["model"], each["weights"][0]) for each in only["members"]] == [
        ("last-value", 0.25),
        ("seasonal-naive", 0.75),
    ]
    assert only["members"][1]["loss_over_last_value"] == 0.5
    assert (only["seasonal_ratio"], only["accuracy"]["wape_day_before"]) == (0.75, None)
    assert document["calendar"] == {"until": "2026-03-02T12:30:00Z", "events": [], "windows": []}


def test_without_an_engine_the_forecast_is_served_and_says_what_is_not_known(api: Api) -> None:
    document = api.ask("/api/v1/workloads/llm/chat/forecast")[1]
    assert document["classes"][0]["members"] == []
    assert document["unknown"][0].startswith("default: the members' weights (")


def test_metrics_are_served_as_prometheus_wants_them(api: Api) -> None:
    status, text, headers = api.ask("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert 'headstart_replicas_desired{namespace="llm",workload="chat"} 3.0' in text
    assert "process_resident_memory_bytes" in text


class Breaks(Collector):
    """A collector that fails after its first family."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("half", "of the page", value=1.0)
        raise RuntimeError("no more")


def test_a_page_that_breaks_off_does_not_look_whole() -> None:
    """Prometheus drops such a scrape and `up` says so; half a page would read as workloads that are gone."""
    with serving(also=Breaks()) as api, pytest.raises(http.client.IncompleteRead):
        api.ask("/metrics")


@pytest.mark.parametrize(("path"), ["/api/v1/workloads/llm/other", "/api/v1/workloads/llm/other/explain", "/nowhere"])
def test_what_is_not_there_is_a_404_in_json(api: Api, path: str) -> None:
    status, document, _ = api.ask(path)
    assert status == 404
    assert document["error"]


def test_health_follows_progress() -> None:
    with serving(alive=True) as api:
        assert api.ask("/healthz")[0] == 200
        assert api.ask("/readyz")[0] == 200
    with serving(None, alive=False) as api:
        status, document, _ = api.ask("/healthz")
        assert (status, document["status"], document["reason"]) == (503, "stalled", "no tick has finished for 200 s")
        assert document["since"].startswith("2026-03-02T12:00:00")
        assert api.ask("/readyz")[0] == 503


def test_before_the_first_tick_lists_are_empty_and_metrics_are_there() -> None:
    with serving(None) as api:
        assert api.ask("/api/v1/workloads")[1]["items"] == []
        assert api.ask("/api/v1/workloads/llm/chat")[0] == 503
        assert api.ask("/metrics")[0] == 200


def test_numbers_that_json_does_not_have_are_null() -> None:
    nothing = ForecastQuality(coverage_95=float("nan"), wape=float("inf"), wape_last_value=0.1, scored_bins=0)
    snapshot = a_snapshot(rps=12.5, desired=2, forecasts=(a_forecast(20.0),), quality=nothing)
    with serving(a_tick(snapshot, a_policy())) as api:
        document = api.ask("/api/v1/workloads/llm/chat/forecast")[1]
    assert document["classes"][0]["quality"]["quality"]["coverage_95"] is None


def test_an_unreadable_cluster_is_shown_as_such() -> None:
    blind = without_replicas(SEEN, Blind(reason=BlindReason.FORBIDDEN, detail="no rule for pods"))
    with serving(a_tick(blind, a_policy())) as api:
        (row,) = api.ask("/api/v1/workloads")[1]["items"]
    assert row["replicas"]["blind"] == {"reason": "forbidden", "detail": "no rule for pods"}
    assert (row["state"], row["replicas"]["current"]) == ("DEGRADED", None)


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("localhost:8090", 200, id="localhost"),
        pytest.param("127.0.0.1", 200, id="an address"),
        pytest.param("[::1]:8090", 200, id="an IPv6 address"),
        pytest.param("10.1.2.3:8090", 200, id="a pod's address, as Prometheus and the kubelet use it"),
        pytest.param("evil.example:8090", 421, id="a name that was rebound to loopback"),
        pytest.param("localhost.evil.example", 421, id="a name that begins well"),
        pytest.param("127.0.0.1.evil.example", 421, id="a name that begins with an address"),
    ],
)
def test_a_host_that_we_are_not_is_refused(api: Api, host: str, status: int) -> None:
    assert api.ask("/api/v1/workloads", host=host)[0] == status
    assert api.ask("/healthz", host=host)[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/api/v1/workloads", "/api/v1/workloads/llm/chat", "/metrics", "/nowhere"])
def test_nothing_but_reading_is_answered(api: Api, method: str, path: str) -> None:
    status, _, headers = api.ask(path, method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_head_answers_without_a_body(api: Api) -> None:
    assert api.ask("/api/v1/workloads", method="HEAD")[:2] == (200, "")


def test_with_a_token_nobody_reads_without_it_but_probes_do(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("s3cret-t0ken\n")
    with serving(token_file=token_file) as api:
        for path in ("/api/v1/workloads", "/metrics", "/api/v1/workloads/llm/chat/explain"):
            assert api.ask(path)[0] == 401
            assert api.ask(path, headers={"Authorization": "Bearer wrong"})[0] == 401
            assert api.ask(path, headers={"Authorization": "Basic s3cret-t0ken"})[0] == 401
            assert api.ask(path, headers={"Authorization": "Bearer s3cret-t0ken"})[0] == 200
        assert api.ask("/healthz")[0] == 200
        token_file.write_text("rotated")
        assert api.ask("/metrics", headers={"Authorization": "Bearer rotated"})[0] == 200
        token_file.unlink()
        assert api.ask("/metrics", headers={"Authorization": "Bearer rotated"})[0] == 401
        assert api.ask("/metrics", headers={"Authorization": "Bearer "})[0] == 401


def test_an_address_that_is_taken_is_said_at_once(api: Api) -> None:
    with pytest.raises(OSError):
        WebServer(create_app, host="127.0.0.1", port=api.port).start()  # type: ignore[arg-type]


def test_the_view_is_whole_or_not_there() -> None:
    board = Board()
    assert board.view() is None
    board.publish(view := View(report=replace(TICK, at=NOON + timedelta(minutes=1))))
    assert board.view() is view
    assert view.at.tzinfo is UTC


def test_gateways_are_told_that_there_are_no_shares() -> None:
    with serving() as api:
        status, body, _ = api.ask("/api/v1/shares")
    assert (status, body["kind"], body["leads"], body["models"]) == (200, "Shares", True, [])
    assert parse_shares(json.dumps(body), source="the daemon") == {}


def test_before_the_first_tick_nothing_is_known_of_shares() -> None:
    with serving(None) as api:
        assert api.ask("/api/v1/shares")[0] == 503
