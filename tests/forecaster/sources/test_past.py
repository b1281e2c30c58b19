"""History from a real Prometheus whose storage was filled beforehand.

What must hold: bin i is measured over its own interval, a gap stays a gap, a counter reset is no spike, duplicates
are not summed, and a stretch of any length comes back whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.errors import SeriesError, SourceError
from forecaster.sources import past
from forecaster.sources.connection import Connection
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import DEFAULT_CLASS, Panel, SeriesKey
from servers import EMPTY_VECTOR, MisbehavingServer, PrometheusServer, prometheus_is_installed

pytestmark = pytest.mark.server

START = datetime(2026, 3, 2, tzinfo=UTC)
HOURS = 6
DAYS = 14


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def samples(name: str, labels: str, every_s: int, until_s: int, value: Callable[[int], float | None]) -> Iterator[str]:
    """Lines of one series from an hour before the start."""
    for second in range(-3600, until_s + 1, every_s):
        reading = value(second)
        if reading is not None:
            yield f"{name}{{{labels}}} {reading} {int(START.timestamp()) + second}"


def total(second: int) -> float:
    """A counter at 2/s until minute 60, then at 6/s."""
    return 2.0 * (second + 3600) + 4.0 * max(0, second - 3600)


def with_gap(second: int) -> float | None:
    """The same, without samples between minute 100 and 110."""
    return None if 6000 < second < 6600 else total(second)


def with_reset(second: int) -> float:
    """The same, restarted at minute 150."""
    return total(second) if second < 9000 else total(second) - total(9000)


def shed(second: int) -> float:
    """Refusals for one reason: none until minute 60, 1/s from then on."""
    return float(max(0, second - 3600))


def metric(family: str, kind: str, *series: Iterator[str]) -> list[str]:
    return [f"# TYPE {family} {kind}", *(line for lines in series for line in lines)]


def pod(name: str, model: str) -> str:
    return f'namespace="llm",pod="{name}",model_name="{model}"'


def open_metrics() -> str:
    until = HOURS * 3600
    door = "headstart_gateway_requests"
    lines = [
        *metric(
            door, "counter",
            samples(f"{door}_total", 'namespace="llm",model="a",request_class="gui"', 15, until, with_gap),
            samples(f"{door}_total", 'namespace="llm",model="a",request_class="html"', 15, until, with_reset),
            samples(f"{door}_total", 'namespace="llm",model="hourly"', 60, until, total),
            samples(f"{door}_total", 'namespace="llm",model="twin",replica="0"', 15, until, total),
            samples(f"{door}_total", 'namespace="llm",model="twin",replica="1"', 15, until, total),
            samples(f"{door}_total", 'namespace="llm",model="long"', 60, DAYS * 86400, lambda s: s + 3600.0),
        ),
        *metric(
            "headstart_gateway_prompt_tokens", "counter",
            *(samples("headstart_gateway_prompt_tokens_total", f'namespace="llm",model="a",request_class="{name}"', 15,
                      until, lambda s, tokens=tokens: tokens * total(s)) for name, tokens in (("gui", 1200), ("html", 6000))),
        ),
        *metric(
            "vllm:generation_tokens", "counter",
            samples("vllm:generation_tokens_total", pod("a-0", "a"), 15, until, lambda s: 50.0 * total(s)),
            samples("vllm:generation_tokens_total", pod("shed-0", "shed"), 15, until, lambda s: 150.0 * (s + 3600)),
        ),
        *metric(
            "vllm:num_requests_running", "gauge",
            samples("vllm:num_requests_running", pod("a-0", "a"), 15, until, lambda s: 3.0 if s < 7200 else 9.0),
            samples("vllm:num_requests_running", pod("a-1", "a"), 15, until, lambda s: float("nan") if 600 < s < 660 else 4.0),
            samples("vllm:num_requests_running", pod("shed-0", "shed"), 15, until, lambda _: 8.0),
        ),
        *metric(
            "vllm:num_requests_waiting", "gauge",
            samples("vllm:num_requests_waiting", pod("shed-0", "shed"), 15, until, lambda _: 5.0),
        ),
        *metric(
            "vllm:request_success", "counter",
            samples("vllm:request_success_total", pod("shed-0", "shed"), 15, until, lambda s: 3.0 * (s + 3600)),
        ),
        *metric(
            "vllm:admission_rejections", "counter",
            *(samples("vllm:admission_rejections_total", pod("shed-0", "shed") + f',reason="{reason}"', 15, until, shed)
              for reason in ("max_num_queued_reqs", "max_num_queued_tokens")),
        ),
        *metric(
            "vllm:gpu_cache_usage_perc", "gauge",
            samples("vllm:gpu_cache_usage_perc", pod("a-0", "a"), 15, until, lambda s: 0.5),
        ),
    ]  # fmt: skip
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def source() -> Iterator[PrometheusSource]:
    if not prometheus_is_installed():
        pytest.skip("prometheus and promtool are not installed")
    server = PrometheusServer()
    server.back_fill(open_metrics())
    with server:
        yield PrometheusSource(Connection(url=server.url))


def selector(model: str) -> WorkloadSelector:
    return WorkloadSelector(workload=f"llm/{model}", labels=(("model_name", model),))


def row(panel: Panel, model: str, request_class: str = DEFAULT_CLASS) -> np.ndarray:
    (signal,) = {key.signal for key in panel.keys}
    return panel.series(SeriesKey(workload=f"llm/{model}", signal=signal, request_class=request_class)).values


def test_a_bin_is_measured_over_its_own_interval(source: PrometheusSource):
    panel = source.history([selector("a")], "demand_rps", start=at(0), end=at(120))
    gui = row(panel, "a", "gui")
    assert panel.start == at(0)
    assert panel.end == at(120)
    # 2/s until minute 60, 6/s from then on: the bin that starts at minute 60 is the first of the new rate.
    assert gui[:60] == pytest.approx(2.0)
    assert gui[60:100] == pytest.approx(6.0)


def test_a_pool_has_the_past_of_its_own_classes(source: PrometheusSource):
    pools = [
        WorkloadSelector(workload=f"llm/{name}", demand_labels=(("model", "a"),), classes=(name,))
        for name in ("gui", "html")
    ]
    until = START + timedelta(hours=1)
    panel = source.history(pools, "demand_rps", start=START, end=until)
    both = source.history([selector("a")], "demand_rps", start=START, end=until)
    assert {(key.workload, key.request_class) for key in panel.keys} == {("llm/gui", "gui"), ("llm/html", "html")}
    for name in ("gui", "html"):
        np.testing.assert_array_equal(row(panel, name, name), row(both, "a", name))
    evidence = source.evidence(pools, start=START, end=until)
    assert {key.workload for key in evidence.keys} <= {"llm/gui", "llm/html"}


def test_a_gap_stays_a_gap(source: PrometheusSource):
    gui = row(source.history([selector("a")], "demand_rps", start=at(90), end=at(120)), "a", "gui")
    unknown = np.flatnonzero(np.isnan(gui)) + 90
    assert set(range(101, 109)) <= set(unknown)
    assert set(unknown) <= set(range(100, 111))


def test_a_counter_reset_is_neither_negative_nor_a_spike(source: PrometheusSource):
    html = row(source.history([selector("a")], "demand_rps", start=at(120), end=at(180)), "a", "html")
    assert np.all(html >= 0)
    assert np.max(html) <= 6.0 + 1e-9
    assert html == pytest.approx(6.0, rel=0.3)


def test_a_scrape_interval_of_a_minute_still_gives_every_bin(source: PrometheusSource):
    values = row(source.history([selector("hourly")], "demand_rps", start=at(0), end=at(50)), "hourly")
    assert values == pytest.approx(2.0, rel=0.05)


def test_copies_of_a_series_are_unknown_and_never_summed(source: PrometheusSource):
    assert np.all(np.isnan(row(source.history([selector("twin")], "demand_rps", start=at(0), end=at(50)), "twin")))


def test_gauges_are_averaged_over_the_bin_and_summed_over_pods(source: PrometheusSource):
    values = row(source.history([selector("a")], "requests_running", start=at(100), end=at(140)), "a")
    assert values[:19] == pytest.approx(7.0)
    assert values[21:] == pytest.approx(13.0)


def test_what_is_not_a_number_makes_its_bin_unknown(source: PrometheusSource):
    values = row(source.history([selector("a")], "requests_running", start=at(0), end=at(30)), "a")
    assert np.flatnonzero(np.isnan(values)).tolist() == [10]
    assert np.delete(values, 10) == pytest.approx(7.0)


def test_what_an_engine_refused_has_arrived_too(source: PrometheusSource):
    """3/s complete all the time; from minute 60 on 2/s more are turned away at a full queue."""
    values = row(source.history([selector("shed")], "demand_rps", start=at(30), end=at(90)), "shed")
    assert values[:30] == pytest.approx(3.0)
    assert values[31:] == pytest.approx(5.0)


def test_an_older_metric_name_is_read(source: PrometheusSource):
    values = row(source.history([selector("a")], "kv_cache_usage_ratio", start=at(0), end=at(30)), "a")
    assert values == pytest.approx(0.5)


def test_a_workload_without_data_has_a_row_of_unknown(source: PrometheusSource):
    panel = source.history([selector("a"), selector("ghost")], "demand_rps", start=at(0), end=at(10))
    assert {(key.workload, key.request_class) for key in panel.keys} == {
        ("llm/a", "gui"), ("llm/a", "html"), ("llm/ghost", DEFAULT_CLASS),
    }  # fmt: skip
    assert np.all(np.isnan(row(panel, "ghost")))


def test_two_weeks_come_back_whole_though_one_request_could_not_hold_them(source: PrometheusSource):
    bins = DAYS * 1440
    assert bins > 11_000
    panel = source.history([selector("long")], "demand_rps", start=START, end=START + timedelta(days=DAYS))
    assert panel.values.shape == (1, bins)
    assert panel.values == pytest.approx(1.0, rel=1e-6)


def test_the_cut_into_chunks_changes_nothing(source: PrometheusSource, monkeypatch: pytest.MonkeyPatch):
    whole = source.history([selector("a")], "demand_rps", start=at(0), end=at(181), step=timedelta(minutes=1))
    monkeypatch.setattr(past, "MAX_POINTS", 7)
    pieces = source.history([selector("a")], "demand_rps", start=at(0), end=at(181), step=timedelta(minutes=1))
    assert whole.keys == pieces.keys
    np.testing.assert_array_equal(whole.values, pieces.values)


def test_the_last_partial_bin_is_left_out(source: PrometheusSource):
    panel = source.history([selector("a")], "demand_rps", start=at(0), end=at(10) + timedelta(seconds=59))
    assert panel.end == at(10)


def test_bins_that_the_server_has_not_lived_through_do_not_exist(source: PrometheusSource):
    server_now = datetime.now(UTC).replace(microsecond=0)
    start = server_now - timedelta(minutes=5)
    panel = source.history([selector("a")], "demand_rps", start=start, end=server_now + timedelta(hours=2))
    assert panel.values.shape[1] in (5, 6)


@pytest.mark.parametrize(
    ("start", "step"),
    [
        pytest.param(at(0).replace(tzinfo=None), timedelta(minutes=1), id="naive time"),
        pytest.param(at(0).replace(microsecond=5), timedelta(minutes=1), id="a fraction of a second"),
        pytest.param(at(0), timedelta(milliseconds=500), id="half a second"),
        pytest.param(at(0), timedelta(0), id="no step"),
    ],
)
def test_refuses_a_grid_that_prometheus_cannot_evaluate(start: datetime, step: timedelta):
    with pytest.raises(SeriesError):
        PrometheusSource(Connection(url="http://127.0.0.1:9")).history(
            [selector("a")], "demand_rps", start=start, end=at(10), step=step
        )


def test_a_chunk_that_fails_is_an_error_and_never_a_gap():
    with MisbehavingServer(lambda talk: talk.answer(503, b"no")) as server, pytest.raises(SourceError):
        PrometheusSource(Connection(url=server.url)).history([selector("a")], "demand_rps", start=at(0), end=at(10))


def test_an_empty_server_gives_rows_of_unknown():
    with MisbehavingServer(lambda talk: talk.answer(200, EMPTY_VECTOR)) as server:
        panel = PrometheusSource(Connection(url=server.url)).history(
            [selector("a")], "demand_rps", start=at(0), end=at(10)
        )
    assert panel.values.shape == (1, 10)
    assert np.all(np.isnan(panel.values))


# ── Tokens and images ─────────────────────────────────────────────────────────────────────────────────────────────


def usage(
    source: PrometheusSource, classes: dict[str, set[str]], *models: str
) -> dict[tuple[str, str, str], list[float]]:
    panel = source.usage([selector(model) for model in models], classes, start=at(30), end=at(33))
    return {
        (k.workload, k.signal, k.request_class): row.tolist() for k, row in zip(panel.keys, panel.values, strict=True)
    }


def test_only_series_that_are_there_have_a_row(source: PrometheusSource):
    found = usage(source, {"llm/a": {"gui", "html"}, "llm/shed": {"chat"}}, "a", "shed", "ghost")
    assert found == {
        ("llm/a", "prompt_tokens_per_s", "gui"): pytest.approx([2400.0] * 3),
        ("llm/a", "prompt_tokens_per_s", "html"): pytest.approx([12000.0] * 3),
        ("llm/shed", "output_tokens_per_s", "chat"): pytest.approx([150.0] * 3),
    }


@pytest.mark.parametrize(
    ("classes", "owner"),
    [
        pytest.param({"chat"}, "chat", id="the only class owns what the engine counts"),
        pytest.param({"default"}, "default", id="as does demand that is not told apart"),
        pytest.param(set(), "default", id="or the workload, while its demand is unknown"),
        pytest.param({"chat", "docs"}, None, id="of two classes nobody does"),
        pytest.param({"chat", "default"}, None, id="nor of a class and what is in none"),
    ],
)
def test_what_the_engine_counts_belongs_to_an_only_class(
    source: PrometheusSource, classes: set[str], owner: str | None
):
    found = usage(source, {"llm/shed": classes}, "shed")
    assert [name for _, _, name in found] == ([] if owner is None else [owner])
