"""Readings and checks of a whole fleet, through a real Prometheus."""

from __future__ import annotations

import json
import math
import re
import time
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from forecaster.errors import SourceError, SourceRefused
from forecaster.sources.catalogue import CATALOGUE, Use
from forecaster.sources.connection import Connection
from forecaster.sources.exchange import Question, Wire
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.readings import Readings
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import Blind, BlindReason, Known, Reading, SeriesKey, TooFew, Zero
from metrics_fleet import RATE_WINDOW_S, Fleet, wait_for
from servers import EMPTY_VECTOR, Exporter, MisbehavingServer, PrometheusServer, RawConversation, Target, VllmPage

pytestmark = pytest.mark.server

METRICS_PAGE = Path(__file__).resolve().parents[3].parent / "shared" / "vllm" / "metrics.txt"
RULE_SIGNALS = [signal.name for signal in CATALOGUE if signal.use is not Use.REPORTING]


def workload(name: str, **settings: object) -> WorkloadSelector:
    return WorkloadSelector(workload=f"llm/{name}", rate_window_s=RATE_WINDOW_S, **settings)  # type: ignore[arg-type]


def read(fleet: Fleet, *selectors: WorkloadSelector, now: datetime) -> Readings:
    return PrometheusSource(fleet.connection).read(selectors, now=now)


def of(readings: Readings, name: str, signal: str, request_class: str = "default") -> Reading:
    return readings.values[SeriesKey(workload=f"llm/{name}", signal=signal, request_class=request_class)]


def known(reading: Reading) -> float:
    assert isinstance(reading, Known), reading
    assert 0 <= reading.age_s < 5
    return reading.value


def blind(reading: Reading) -> Blind:
    assert isinstance(reading, Blind), reading
    return reading


# ── Values ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_busy_workload_is_read_in_full(fleet: Fleet, now: datetime):
    chat = workload("chat")
    readings = read(fleet, chat, now=now)
    assert known(of(readings, "chat", "demand_rps", "gui")) == pytest.approx(30, rel=0.15)
    assert known(of(readings, "chat", "demand_rps", "html")) == pytest.approx(8, rel=0.25)
    assert known(of(readings, "chat", "requests_running")) == 12
    assert known(of(readings, "chat", "requests_waiting")) == 3
    assert known(of(readings, "chat", "kv_cache_usage_ratio")) == 0.9
    # Every request took 0.09 s to its first token: the bucket (0.08, 0.1], interpolated at 95 %.
    assert known(of(readings, "chat", "ttft_p95_s")) == pytest.approx(0.099)
    assert known(of(readings, "chat", "e2e_p95_s")) == pytest.approx(1.475)
    assert known(of(readings, "chat", "queue_time_p95_s")) == pytest.approx(0.285)
    assert known(of(readings, "chat", "itl_p95_s")) == pytest.approx(0.04875)
    assert known(of(readings, "chat", "prefix_cache_hit_ratio")) == pytest.approx(0.25)
    assert readings.skew_s is not None
    assert abs(readings.skew_s) < 10


def test_tokens_and_images_are_read_per_class_where_the_door_tells_and_as_a_whole_where_the_engine_does(
    fleet: Fleet, now: datetime
):
    readings = read(fleet, workload("chat"), workload("chat-large"), now=now)
    assert known(of(readings, "chat", "prompt_tokens_per_s", "gui")) == pytest.approx(30 * 1200, rel=0.15)
    assert known(of(readings, "chat", "prompt_tokens_per_s", "html")) == pytest.approx(8 * 6000, rel=0.15)
    assert known(of(readings, "chat", "images_per_s", "gui")) == pytest.approx(30, rel=0.15)
    assert isinstance(of(readings, "chat", "images_per_s", "html"), Zero)
    assert known(of(readings, "chat", "output_tokens_per_s")) == pytest.approx(2 * 20 * 50, rel=0.15)
    assert known(of(readings, "chat-large", "prompt_tokens_per_s")) == pytest.approx(25 * 100, rel=0.2)
    assert blind(of(readings, "chat-large", "images_per_s")).reason is BlindReason.NO_SERIES
    assert readings.queries <= 8


def test_what_no_rule_reads_keeps_its_classes_between_two_reads(fleet: Fleet, now: datetime):
    source, chat = PrometheusSource(fleet.connection), workload("chat")
    source.read([chat], now=now)
    later = source.read([chat], now=now + timedelta(seconds=20))
    reading = of(later, "chat", "prompt_tokens_per_s", "html")
    assert isinstance(reading, Known)
    assert reading.age_s >= 20
    assert SeriesKey(workload="llm/chat", signal="prompt_tokens_per_s") not in later.values


def test_gpu_figures_are_converted_once_at_the_edge(fleet: Fleet, now: datetime):
    readings = read(fleet, workload("chat"), now=now)
    expected = {
        "gpu_utilisation_ratio": 0.8,
        "gpu_memory_used_bytes": 2 * 40000 * 2**20,
        "gpu_memory_free_bytes": 2 * 960 * 2**20,
        "gpu_power_watts": 600,
        "gpu_energy_joules_total": 10_000,
    }
    assert {name: known(of(readings, "chat", name)) for name in expected} == pytest.approx(expected)
    assert isinstance(of(readings, "chat", "gpu_xid_errors"), Zero)


def test_neighbours_and_routers_are_not_counted(fleet: Fleet, now: datetime):
    # chat-large runs 100, a router exports 500 again; chat alone runs 12.
    readings = read(fleet, workload("chat"), workload("chat-large"), now=now)
    assert known(of(readings, "chat", "requests_running")) == 12
    assert known(of(readings, "chat-large", "requests_running")) == 100


@pytest.mark.parametrize(
    "selector",
    [
        pytest.param(workload("chat"), id="by the shape of pods' names"),
        pytest.param(workload("chat", labels=(("model_name", "chat"),)), id="by a label"),
        pytest.param(workload("chat", pod_pattern="chat-7d9f8b6c5d-[a-z0-9]+"), id="by a pattern of pods"),
        pytest.param(workload("chat", deployment_label="app"), id="by a deployment label"),
        pytest.param(workload("chat", namespaced=False, labels=(("model_name", "chat"),)), id="without a namespace"),
    ],
)
def test_a_workload_is_found(fleet: Fleet, now: datetime, selector: WorkloadSelector):
    readings = read(fleet, selector, workload("idle"), now=now)
    assert known(of(readings, "chat", "requests_running")) == 12
    assert isinstance(of(readings, "idle", "requests_running"), Zero)


def test_without_a_front_door_completions_and_what_is_in_flight_stand_in(fleet: Fleet, now: datetime):
    readings = read(fleet, workload("chat-large"), now=now)
    assert known(of(readings, "chat-large", "demand_rps")) == pytest.approx(25, rel=0.2)


def test_a_front_door_named_in_the_selector_goes_first(fleet: Fleet, now: datetime):
    nginx = workload("chat-large", demand_metric="nginx_requests_total", demand_labels=(("upstream", "large"),))
    assert known(of(read(fleet, nginx, now=now), "chat-large", "demand_rps")) == pytest.approx(12, rel=0.2)


def a_pool(name: str, *classes: str, **settings: object) -> WorkloadSelector:
    return workload(name, classes=classes, **{"demand_labels": (("model", "chat"),), **settings})


def test_pools_of_one_model_read_their_own_classes_each(fleet: Fleet, now: datetime):
    readings = read(fleet, a_pool("chat", "gui"), a_pool("few", "html", "never-asked"), now=now)
    assert known(of(readings, "chat", "demand_rps", "gui")) == pytest.approx(30, rel=0.15)
    assert known(of(readings, "few", "demand_rps", "html")) == pytest.approx(8, rel=0.25)
    assert known(of(readings, "few", "prompt_tokens_per_s", "html")) == pytest.approx(8 * 6000, rel=0.2)
    told = {(key.workload, key.request_class) for key in readings.values if key.signal == "demand_rps"}
    assert told == {("llm/chat", "gui"), ("llm/few", "html")}
    # What the pool's own engines tell is read by their pods, whatever classes they serve.
    assert known(of(readings, "chat", "requests_running")) == 12


def test_a_pool_is_found_by_the_model_that_its_pods_serve(fleet: Fleet, now: datetime):
    by_model = workload("chat", classes=("html",), namespace="llm")
    assert known(of(read(fleet, by_model, now=now), "chat", "demand_rps", "html")) == pytest.approx(8, rel=0.25)


def test_a_pool_whose_front_door_tells_no_classes_is_blind_and_not_everybodys(fleet: Fleet, now: datetime):
    pool = a_pool("few", "gui", demand_labels=(("model", "few"),))
    assert blind(of(read(fleet, pool, now=now), "few", "demand_rps")).reason is BlindReason.NO_SERIES


def test_an_older_metric_name_is_still_found(fleet: Fleet, now: datetime):
    source = PrometheusSource(fleet.connection)
    by_signal = {check.signal: check for check in source.check([workload("few")], now=now)}
    assert by_signal["kv_cache_usage_ratio"].metric == "vllm:gpu_cache_usage_perc"
    assert isinstance(of(source.read([workload("few")], now=now), "few", "kv_cache_usage_ratio"), Zero)


def test_an_older_engine_tells_of_tokens_what_a_newer_one_tells_of_requests(fleet: Fleet, now: datetime):
    """25 requests/s of 49 gaps make 4,900 in four seconds and are enough; 4 requests/s make 784 and are not."""
    selectors = [workload("chat"), workload("chat-large"), workload("few")]
    source = PrometheusSource(fleet.connection)
    checks = {(c.workload, c.signal): c for c in source.check(selectors, now=now)}
    assert checks[("llm/chat", "itl_p95_s")].metric == "vllm:request_time_per_output_token_seconds"
    assert checks[("llm/chat-large", "itl_p95_s")].metric == "vllm:time_per_output_token_seconds"
    assert 0.1 in checks[("llm/chat-large", "itl_p95_s")].edges_s
    readings = source.read(selectors, now=now)
    assert known(of(readings, "chat-large", "itl_p95_s")) == pytest.approx(0.04875)
    few = of(readings, "few", "itl_p95_s")
    assert isinstance(few, TooFew)
    assert few.count == pytest.approx(784, abs=200)


# ── Zero, too few, and blind ──────────────────────────────────────────────────────────────────────────────────────


def test_no_traffic_is_zero_by_evidence_and_its_latency_too_few(fleet: Fleet, now: datetime):
    readings = read(fleet, workload("idle"), now=now)
    demand = of(readings, "idle", "demand_rps", "gui")
    assert isinstance(demand, Zero)
    assert "headstart_gateway_requests_total" in demand.evidence
    assert of(readings, "idle", "ttft_p95_s") == TooFew(count=0.0)


def test_a_percentile_over_few_requests_is_not_told(fleet: Fleet, now: datetime):
    reading = of(read(fleet, workload("few"), now=now), "few", "ttft_p95_s")
    assert isinstance(reading, TooFew)
    assert reading.count == pytest.approx(16, abs=4)


def test_a_pod_scraped_twice_is_ambiguous_and_never_summed(fleet: Fleet, now: datetime):
    readings = read(fleet, workload("twin"), now=now)
    for name in RULE_SIGNALS:
        reading = blind(of(readings, "twin", name))
        assert reading.reason is BlindReason.AMBIGUOUS
        assert "2 series match" in reading.detail


def test_two_selectors_that_say_the_same_are_ambiguous(fleet: Fleet, now: datetime):
    same = (("model_name", "chat"),)
    readings = read(fleet, workload("blue", labels=same), workload("green", labels=same), now=now)
    assert blind(of(readings, "blue", "requests_running")).reason is BlindReason.AMBIGUOUS
    assert blind(of(readings, "green", "requests_running")).reason is BlindReason.AMBIGUOUS


def test_variants_of_one_service_both_have_its_arrivals(fleet: Fleet, now: datetime):
    front_door = {"demand_labels": (("model", "chat"),), "service": "chat"}
    readings = read(fleet, workload("blue", **front_door), workload("green", **front_door), now=now)
    seen = {
        name: {
            key.request_class: reading
            for key, reading in readings.values.items()
            if key.signal == "demand_rps" and key.workload.endswith(f"/{name}")
        }
        for name in ("blue", "green")
    }
    assert seen["blue"]
    assert all(isinstance(each, Known) for each in seen["blue"].values())
    assert {name: known(each) for name, each in seen["blue"].items()} == {
        name: known(each) for name, each in seen["green"].items()
    }


def test_old_samples_are_stale(fleet: Fleet, now: datetime):
    reading = blind(of(read(fleet, workload("stale"), now=now), "stale", "requests_running"))
    assert reading.reason is BlindReason.STALE
    assert "at most 120 s" in reading.detail


def test_a_dead_target_is_not_a_missing_series(fleet: Fleet, now: datetime):
    readings = read(fleet, workload("down"), now=now)
    assert {blind(of(readings, "down", name)).reason for name in RULE_SIGNALS} == {BlindReason.TARGET_DOWN}


def test_a_target_that_fails_beside_one_that_is_up_is_noted(fleet: Fleet, now: datetime):
    fleet.exporter.pages["/half-6b5c4d7f8-yyyyy"] = lambda: None
    wait_for(fleet.prometheus, 'up{pod="half-6b5c4d7f8-yyyyy"} == 0')
    readings = read(fleet, workload("half"), now=now)
    assert known(of(readings, "half", "requests_running")) == 4
    assert "llm/half: only 50% of its targets are up" in readings.notes


def test_a_missing_series_says_what_was_asked_and_which_labels_were_seen(fleet: Fleet, now: datetime):
    astray = workload("chat", labels=(("deployment", "chat"),))
    reading = blind(of(read(fleet, astray, now=now), "chat", "requests_running"))
    assert reading.reason is BlindReason.NO_SERIES
    assert "vllm:num_requests_running exists" in reading.detail
    assert "model_name" in reading.detail
    assert "pod" in reading.detail


def test_not_a_number_is_not_zero(fleet: Fleet, now: datetime):
    readings = read(fleet, workload("broken"), now=now)
    assert blind(of(readings, "broken", "requests_running")).reason is BlindReason.NOT_FINITE


@pytest.mark.parametrize(
    ("ahead", "is_blind", "noted"),
    [
        pytest.param(timedelta(0), False, False, id="in step"),
        pytest.param(timedelta(seconds=60), False, True, id="a minute ahead: noted"),
        pytest.param(timedelta(minutes=-3), True, True, id="three minutes behind"),
        pytest.param(timedelta(hours=2), True, True, id="two hours ahead"),
    ],
)
def test_a_clock_that_is_off(fleet: Fleet, now: datetime, ahead: timedelta, is_blind: bool, noted: bool):
    readings = read(fleet, workload("chat"), now=now + ahead)
    reading = of(readings, "chat", "requests_running")
    assert isinstance(reading, Blind) == is_blind
    assert any("clock" in note for note in readings.notes) == noted
    assert readings.skew_s == pytest.approx(-ahead.total_seconds(), abs=10)


def test_every_signal_of_every_workload_has_a_reading_and_none_of_a_missing_one_is_a_number(
    fleet: Fleet, now: datetime
):
    names = ["chat", "ghost", "down"]
    readings = read(fleet, *(workload(name) for name in names), now=now)
    for name in names:
        for signal in CATALOGUE:
            found = [
                r for key, r in readings.values.items() if (key.workload, key.signal) == (f"llm/{name}", signal.name)
            ]
            assert found
            assert name == "chat" or all(isinstance(reading, Blind) for reading in found)


# ── How often, how many ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_tick_never_asks_more_than_eight_queries_and_reports_every_five_minutes(fleet: Fleet, now: datetime):
    source = PrometheusSource(fleet.connection)
    selectors = [workload(name) for name in ("chat", "chat-large", "idle", "few")]
    counts = [source.read(selectors, now=now + timedelta(seconds=s)).queries for s in (0, 15, 30)]
    assert counts[0] <= 8
    assert counts[1:] == [4, 4]
    reading = of(source.read(selectors, now=now + timedelta(seconds=45)), "chat", "gpu_power_watts")
    assert isinstance(reading, Known)
    assert 45 <= reading.age_s < 55


def test_a_latency_without_a_target_is_read_every_five_minutes_and_shown_with_its_age(fleet: Fleet, now: datetime):
    source, judged = PrometheusSource(fleet.connection), {"llm/chat": ("e2e_p95_s",)}
    first = source.read([workload("chat")], now=now, judged=judged)
    later = source.read([workload("chat")], now=now + timedelta(seconds=45), judged=judged)
    for name, is_judged in (("e2e_p95_s", True), ("ttft_p95_s", False)):
        before, after = of(first, "chat", name), of(later, "chat", name)
        assert isinstance(before, Known)
        assert isinstance(after, Known)
        assert (after.age_s - before.age_s < 45.0) is is_judged


def test_a_workload_that_is_no_longer_asked_for_is_forgotten(fleet: Fleet, now: datetime):
    source = PrometheusSource(fleet.connection)
    source.read([workload("chat"), workload("idle")], now=now)
    readings = source.read([workload("idle")], now=now)
    assert {key.workload for key in readings.values} == {"llm/idle"}


def test_two_selectors_for_one_workload_are_a_mistake(fleet: Fleet, now: datetime):
    with pytest.raises(ValueError, match="llm/chat"):
        read(fleet, workload("chat"), workload("chat", class_label="tenant"), now=now)


def test_one_failing_query_blinds_its_own_signals_only(fleet: Fleet, now: datetime):
    wire = Wire(fleet.connection)

    def pass_on_all_but_latencies(talk: RawConversation) -> None:
        text = parse_qs(talk.received.body)["query"][0]
        answer = wire.ask([Question(text=text)], deadline_s=5)[0]
        if (
            isinstance(answer, SourceError)
            or "histogram_quantile(0.95, sum by (namespace, headstart_owner, le)" in text
        ):
            talk.answer(422, b"execution error")
            return
        rows = [{"metric": dict(row.labels), "value": [row.times[0], str(row.values[0])]} for row in answer.rows]
        talk.answer(200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}}).encode())

    with MisbehavingServer(pass_on_all_but_latencies) as proxy:
        readings = PrometheusSource(Connection(url=proxy.url)).read([workload("chat")], now=now)
    assert blind(of(readings, "chat", "ttft_p95_s")).reason is BlindReason.REFUSED
    assert known(of(readings, "chat", "requests_running")) == 12
    assert isinstance(of(readings, "chat", "demand_rps", "gui"), Known)


def test_an_answer_that_is_empty_throughout_is_no_series_and_never_zero(now: datetime):
    with MisbehavingServer(lambda talk: talk.answer(200, EMPTY_VECTOR)) as server:
        readings = PrometheusSource(Connection(url=server.url)).read([workload("chat")], now=now)
    assert {blind(of(readings, "chat", name)).reason for name in RULE_SIGNALS} == {BlindReason.NO_SERIES}


# ── Things that change ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_prometheus_that_dies_and_comes_back(now: datetime):
    server = PrometheusServer()
    with server:
        source = PrometheusSource(Connection(url=server.url, deadline_s=2))
        assert blind(of(source.read([workload("chat")], now=now), "chat", "demand_rps")).reason is BlindReason.NO_SERIES
        server.kill()
        assert (
            blind(of(source.read([workload("chat")], now=now), "chat", "demand_rps")).reason is BlindReason.UNREACHABLE
        )
        server.start()
        assert blind(of(source.read([workload("chat")], now=now), "chat", "demand_rps")).reason is BlindReason.NO_SERIES


def test_a_workload_that_comes_up_later_is_found_within_a_minute(fleet: Fleet, now: datetime):
    path = "/down-6b5c4d7f8-zzzzz"
    before = fleet.exporter.pages[path]
    source = PrometheusSource(fleet.connection)
    assert blind(of(source.read([workload("down")], now=now), "down", "requests_running")).reason is (
        BlindReason.TARGET_DOWN
    )
    fleet.exporter.pages[path] = VllmPage(model_name="down", running=6)
    try:
        wait_for(fleet.prometheus, 'vllm:num_requests_running{model_name="down"} >= 0')
        readings = source.read([workload("down")], now=now + timedelta(seconds=61))
        assert isinstance(of(readings, "down", "requests_running"), Known)
    finally:
        fleet.exporter.pages[path] = before
        wait_for(fleet.prometheus, 'absent(vllm:num_requests_running{model_name="down"})')


def test_a_front_door_that_vanishes_is_not_replaced_by_completions(now: datetime):
    """Completions lag behind arrivals: the switch itself would look like falling demand."""
    born, door_is_up = time.time(), True

    def door() -> str | None:
        return f'headstart_gateway_requests_total{{model="m"}} {30 * (time.time() - born)}\n' if door_is_up else None

    with Exporter({"/pod": VllmPage(model_name="m", rate_rps=5), "/door": door}) as exporter:
        targets = [
            Target(address=exporter.address, path=path, labels={"namespace": "llm", "pod": pod, "instance": pod})
            for path, pod in (("/pod", "m-7d9f8b6c5d-x2x4z"), ("/door", "gateway-7d9f8b6c5d-x2x4z"))
        ]
        with PrometheusServer(targets) as server:
            source = PrometheusSource(Connection(url=server.url))
            wait_for(server, f"count(up offset {RATE_WINDOW_S}s) == {len(targets)}")
            assert isinstance(of(source.read([workload("m")], now=now), "m", "demand_rps"), Known)
            door_is_up = False
            wait_for(server, "sum(up) == 1")
            demand = of(source.read([workload("m")], now=now + timedelta(seconds=1)), "m", "demand_rps")
            assert blind(demand).reason is BlindReason.TARGET_DOWN
            later = source.check([workload("m")], now=now + timedelta(minutes=10))
            assert later[0].metric == "headstart_gateway_requests_total"
            much_later = source.check([workload("m")], now=now + timedelta(minutes=70))
            assert much_later[0].metric == "vllm:request_success_total"


def test_demand_is_partial_while_one_of_the_doors_is_down(now: datetime):
    """What the other door counts is real and may add replicas; taken for the whole it would release half of them."""
    born, second_is_up = time.time(), True

    def door() -> str:
        return f'headstart_gateway_requests_total{{model="m"}} {30 * (time.time() - born)}\n'

    with Exporter(
        {"/pod": VllmPage(model_name="m"), "/one": door, "/two": lambda: door() if second_is_up else None}
    ) as exporter:
        targets = [
            Target(address=exporter.address, path=path, labels={"namespace": "llm", "pod": pod, "instance": pod})
            for path, pod in (
                ("/pod", "m-7d9f8b6c5d-x2x4z"),
                ("/one", "gateway-7d9f8b6c5d-x2x4z"),
                ("/two", "gateway-7d9f8b6c5d-abcde"),
            )
        ]
        with PrometheusServer(targets) as server:
            source = PrometheusSource(Connection(url=server.url))
            wait_for(server, f"count(up offset {RATE_WINDOW_S}s) == {len(targets)}")
            assert source.read([workload("m")], now=now).partial == frozenset()
            second_is_up = False
            wait_for(server, "sum(up) == 2")
            readings = source.read([workload("m")], now=now + timedelta(seconds=1))
            assert isinstance(of(readings, "m", "demand_rps"), Known)
            assert readings.partial == {"llm/m"}


# ── The check ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_check_finds_every_metric_on_the_page_of_a_real_vllm(now: datetime):
    if not METRICS_PAGE.exists():
        pytest.skip(f"{METRICS_PAGE} is not here")
    page = METRICS_PAGE.read_text(encoding="utf-8")
    with Exporter({"/metrics": lambda: page}) as exporter:
        labels = {"namespace": "llm", "pod": "tiny-7d9f8b6c5d-x2x4z"}
        with PrometheusServer([Target(address=exporter.address, path="/metrics", labels=labels)]) as server:
            source = PrometheusSource(Connection(url=server.url))
            wait_for(server, "vllm:num_requests_running >= 0")
            checks = {check.signal: check for check in source.check([workload("tiny")], now=now)}
    missing = {check.signal for check in checks.values() if not check.found}
    assert missing == {name for name in checks if name.startswith("gpu_")}
    ttft = checks["ttft_p95_s"]
    assert ttft.edges_s[:4] == (0.001, 0.005, 0.01, 0.02)
    assert math.inf not in ttft.edges_s
    # 1.2 s is no edge of vLLM's: judged at 1.0, and said so.
    assert checks["e2e_p95_s"].judged_at(1.2) == 1.0
    assert checks["e2e_p95_s"].judged_at(1.5) == 1.5
    assert checks["e2e_p95_s"].judged_at(0.1) is None


def test_the_check_says_what_was_seen_where_nothing_is_live(fleet: Fleet, now: datetime):
    checks = PrometheusSource(fleet.connection).check([workload("ghost")], now=now)
    ttft = next(check for check in checks if check.signal == "ttft_p95_s")
    assert not ttft.found
    assert "labels seen: app, engine, instance, job, model_name, namespace, pod" in ttft.detail


def test_the_check_of_a_silent_server_is_an_error(now: datetime):
    with pytest.raises(SourceRefused):
        PrometheusSource(Connection(url="http://127.0.0.1:9")).check([workload("chat")], now=now)


def test_a_look_too_large_for_the_server_is_tried_with_fewer_workloads(now: datetime):
    """All or nothing, 400 workloads on a server that manages 150 in time would be blind for ever."""
    sizes: list[int] = []

    def behave(conversation: RawConversation) -> None:
        text = parse_qs(conversation.received.body)["query"][0]
        if "headstart_gateway_requests_total" not in text:
            conversation.answer(200, EMPTY_VECTOR)
            return
        sizes.append(len(set(re.findall(r"many-\d{3}", text))))
        if sizes[-1] > 150:
            error = {
                "status": "error",
                "errorType": "execution",
                "error": "expanding series: context deadline exceeded",
            }
            conversation.answer(422, json.dumps(error).encode())
        else:
            conversation.answer(200, EMPTY_VECTOR)

    many = [workload(f"many-{n:03d}", labels=(("model_name", f"many-{n:03d}"),)) for n in range(400)]
    with MisbehavingServer(behave) as server:
        source = PrometheusSource(Connection(url=server.url))
        readings = [source.read(many, now=now + timedelta(seconds=10 * n)) for n in range(6)]
    looks = [size for size in sizes if size]  # what is missing is asked for once more, by no workload's name
    assert looks[:6] == [400, 200, 100, 100, 100, 100]
    assert all({key.workload for key in each.values} == {s.workload for s in many} for each in readings)
    later = blind(of(readings[2], "many-399", "demand_rps"))
    assert later.reason is BlindReason.TIMEOUT
    assert "looked for at the next reads" in later.detail
    assert blind(of(readings[2], "many-000", "demand_rps")).reason is BlindReason.NO_SERIES, "it was looked for"
    assert "next reads" not in blind(of(readings[5], "many-399", "demand_rps")).detail
