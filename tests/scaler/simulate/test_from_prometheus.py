"""A workload's past from a real Prometheus whose storage was filled beforehand, as a trace.

What must hold: every minute is what was written; what was not measured is unknown and not zero; classes add up; and
who asks for what is not there is told what is. Property: a file that was saved reads back as what was recorded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import SourceError
from forecaster.models.seasonal import LastValue
from forecaster.trace import Trace, read_trace
from forecaster.types import STEP, Series, floor_to_step
from scaler.cli import main
from scaler.config import parse_config
from scaler.simulate.from_prometheus import (
    AGAIN_AFTER_S,
    NoTrafficError,
    Recording,
    TooLittleTrafficError,
    record,
    save_trace,
)
from scaler.simulate.trace import Setting, simulate
from servers import EMPTY_VECTOR, MisbehavingServer, PrometheusServer, RawConversation, prometheus_is_installed

pytestmark = pytest.mark.server

NOW = floor_to_step(datetime.now(UTC)) - timedelta(minutes=2)
DAYS = 3
START = NOW - timedelta(days=DAYS)
MINUTES = DAYS * 1440
SCRAPE_S = 15
HTML_SINCE = 700
"""The minute of the first HTML request."""
DARK = range(2000, 2010)
"""Minutes without a single scrape."""
HIDDEN = range(3000, 3020)
"""Minutes in which only the HTML counter is missing."""
ASLEEP = range(3300, 3500)
"""Minutes in which it is missing for so long that nobody can have asked for HTML."""
QUIET_SINCE = MINUTES - 300
"""When llm/early was taken down: nothing of it is live for hours before the recording's end."""
SOLO_SINCE = MINUTES - 3200
"""Where the history of llm/solo begins: 2.2 of the 3 days."""


def gui_rps(minute: int) -> float:
    return 3.0 + 2.0 * math.sin(2.0 * math.pi * minute / 1440.0)


def html_rps(minute: int) -> float:
    return 0.5 + 0.25 * (minute % 3)


def solo_rps(minute: int) -> float:
    return 1.0 + minute % 7


Rate = Callable[[int], float]


def counter(
    labels: str, rate: Rate, *, since: int = 0, without: tuple[range, ...] = (), to: int = MINUTES
) -> Iterator[str]:
    """A counter's samples; rates hold for whole minutes, so that a bin of a minute has exactly one."""
    total = 0.0
    for minute in range(since, to):
        for second in range(0, 60, SCRAPE_S):
            # A minute is measured from its first sample to that of the next one: both have to go.
            hidden = any(minute in each or (minute == each.stop and not second) for each in without)
            if not hidden:
                at = int(START.timestamp()) + 60 * minute + second
                yield f"{labels} {total + second * rate(minute):.6f} {at}"
        total += 60.0 * rate(minute)
    yield f"{labels} {total:.6f} {int((START + to * STEP).timestamp())}"


def gauge(labels: str, *, since: int = 0, to: int = MINUTES) -> Iterator[str]:
    for minute in range(since, to):
        for second in range(0, 60, SCRAPE_S):
            yield f"{labels} 1 {int(START.timestamp()) + 60 * minute + second}"
    yield f"{labels} 1 {int((START + to * STEP).timestamp())}"


def engine(pod: str, model: str) -> str:
    return f'namespace="llm",pod="{pod}",model_name="{model}"'


def open_metrics() -> str:
    door, chat = "headstart_gateway_requests_total", engine("chat-7d9f8b6c5d-x2x4z", "chat")
    early, solo, young = engine("early-0", "early"), engine("solo-0", "solo"), engine("young-0", "young")
    return "\n".join([
        "# TYPE headstart_gateway_requests counter",
        *counter(f'{door}{{namespace="llm",model="chat",request_class="gui"}}', gui_rps, without=(DARK,)),
        *counter(
            f'{door}{{namespace="llm",model="chat",request_class="html"}}', html_rps,
            since=HTML_SINCE, without=(DARK, HIDDEN, ASLEEP),
        ),
        "# TYPE vllm:request_success counter",
        *counter(f"vllm:request_success_total{{{early}}}", solo_rps, to=QUIET_SINCE),
        *counter(f"vllm:request_success_total{{{solo}}}", solo_rps, since=SOLO_SINCE),
        *counter(f"vllm:request_success_total{{{young}}}", solo_rps, since=MINUTES - 1200),
        "# TYPE vllm:num_requests_running gauge",
        *gauge(f"vllm:num_requests_running{{{chat}}}"),
        *gauge(f"vllm:num_requests_running{{{early}}}", to=QUIET_SINCE),
        *gauge(f"vllm:num_requests_running{{{solo}}}", since=SOLO_SINCE),
        *gauge(f"vllm:num_requests_running{{{young}}}", since=MINUTES - 1200),
        "# TYPE vllm:num_requests_waiting gauge",
        *gauge(f"vllm:num_requests_waiting{{{early}}}", to=QUIET_SINCE),
        *gauge(f"vllm:num_requests_waiting{{{solo}}}", since=SOLO_SINCE),
        *gauge(f"vllm:num_requests_waiting{{{young}}}", since=MINUTES - 1200),
        "",
    ])  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[PrometheusServer]:
    if not prometheus_is_installed():
        pytest.skip("prometheus and promtool are not installed")
    prometheus = PrometheusServer()
    prometheus.back_fill(open_metrics())
    with prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def chat(server: PrometheusServer) -> Recording:
    return record("llm/chat", url=server.url, days=DAYS, now=NOW)


def at(recording: Recording, values: np.ndarray) -> dict[int, float]:
    """Known values by minute since the start of what was written."""
    offset = (recording.trace.series.start - START) // STEP
    return {offset + int(index): float(values[index]) for index in np.flatnonzero(np.isfinite(values))}


# ── What comes back is what was written ───────────────────────────────────────────────────────────────────────


def test_each_class_is_what_was_written(chat: Recording):
    assert set(chat.classes) == {"gui", "html"}
    gui, html = (at(chat, chat.classes[name].values) for name in ("gui", "html"))
    assert len(gui) >= MINUTES - len(DARK) - 3
    assert len(html) >= MINUTES - HTML_SINCE - len(DARK) - len(HIDDEN) - len(ASLEEP) - 5
    assert gui == pytest.approx({minute: gui_rps(minute) for minute in gui}, rel=1e-5)
    # The counter is read from a first sample of 0 on; its first minute is where it began.
    assert html == pytest.approx({minute: html_rps(minute) for minute in html}, rel=1e-5)


def test_the_total_is_the_sum_and_knows_when_it_does_not_know(chat: Recording):
    total = at(chat, chat.trace.series.values)
    before, after = HTML_SINCE - 100, HTML_SINCE + 100
    assert total[before] == pytest.approx(gui_rps(before), rel=1e-5)  # no HTML yet: the sum is the other class
    assert total[after] == pytest.approx(gui_rps(after) + html_rps(after), rel=1e-5)
    assert not set(DARK) & set(total)
    assert not set(HIDDEN) & set(total), "a sum without one of its classes reads low"
    assert set(HIDDEN) <= set(at(chat, chat.classes["gui"].values))
    assert total[ASLEEP[50]] == pytest.approx(gui_rps(ASLEEP[50]), rel=1e-5)
    unknown = MINUTES - len(total)
    assert len(DARK) + len(HIDDEN) <= unknown <= len(DARK) + len(HIDDEN) + 6
    assert (chat.trace.column, chat.trace.name, chat.trace.series.step) == ("requests", "llm-chat", STEP)
    assert chat.known == len(total) * STEP
    assert any(f"of {chat.trace.series.values.size} minutes are unknown" in note for note in chat.notes)


def test_without_a_front_door_completions_stand_in_and_it_is_said(server: PrometheusServer):
    solo = record("llm/solo", url=server.url, days=DAYS, now=NOW)
    assert solo.classes == {}
    values = at(solo, solo.trace.series.values)
    assert min(values) in range(SOLO_SINCE, SOLO_SINCE + 2)
    assert values == pytest.approx({minute: solo_rps(minute) for minute in values}, rel=1e-5)
    assert any("vllm:request_success_total: completions" in note for note in solo.notes)


def test_a_workload_that_is_gone_by_now_still_tells_where_its_past_came_from(server: PrometheusServer):
    early = record("llm/early", url=server.url, days=DAYS, now=NOW)
    assert any("vllm:request_success_total: completions" in note for note in early.notes)
    assert "nothing is known of the last 5.0 hours" in early.notes


def test_a_server_that_keeps_less_than_was_asked_says_how_much_came(server: PrometheusServer):
    notes = record("llm/solo", url=server.url, days=6, now=NOW).notes
    assert any("6 days were asked for; what is known begins 3.8 days later, 2.2 days came" in note for note in notes)


def test_the_policies_play_on_it(chat: Recording):
    run = simulate(chat.trace, ["headstart", "hpa", "oracle"], Setting(), members=(LastValue(),))
    assert run.start == NOW - timedelta(days=2) - (chat.trace.series.start - START) or run.start > START + timedelta(
        days=1
    )
    assert run.scores["oracle"].gpu_hours <= run.scores["hpa"].gpu_hours
    scored = run.scores["headstart"]
    assert 0.0 <= scored.under_provisioned_ratio < 0.2


def test_the_command_plays_it_and_keeps_it(
    server: PrometheusServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kept = tmp_path / "chat.csv.gz"
    asked = ["simulate", "--from-prometheus", server.url, "--workload", "llm/chat", "--days", str(DAYS)]
    with pytest.raises(SystemExit) as left:
        main([*asked, "--policies", "hpa,oracle", "--save-trace", str(kept), "-o", "json"])
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert not left.value.code
    assert (document["trace"], [each["name"] for each in document["policies"]]) == ("llm/chat", ["hpa", "oracle"])
    assert "headstart_gateway_requests_total" in told.err, "which metric tells the demand"
    # The command's three days end when it is called, however long ago the samples were written.
    later = (datetime.now(UTC) - NOW) // STEP
    assert read_trace(kept, column=None).series.values.size == pytest.approx(MINUTES - later, abs=5)


def test_progress_goes_up_to_the_end(server: PrometheusServer):
    told: list[tuple[float, str]] = []
    record("llm/solo", url=server.url, days=3, now=NOW, progress=lambda share, text: told.append((share, text)))
    shares = [share for share, _ in told]
    assert shares == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert all("llm/solo" in text for _, text in told)


# ── On disk ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [pytest.param("chat.csv.gz", id="compressed"), pytest.param("chat.csv", id="plain")])
def test_what_was_saved_reads_back(chat: Recording, tmp_path: Path, name: str):
    path = tmp_path / name
    save_trace(chat, path)
    for column, series in (("requests", chat.trace.series), ("requests_html", chat.classes["html"])):
        again = read_trace(path, column=column)
        assert (again.series.start, again.series.step) == (series.start, series.step)
        np.testing.assert_allclose(again.series.values, series.values, rtol=1e-9)
    assert read_trace(path).column == "requests"
    first = path.read_bytes()
    save_trace(chat, path)
    assert path.read_bytes() == first


RATES = st.one_of(st.just(math.nan), st.floats(0.0, 1e6, allow_subnormal=False))


@given(rates=st.lists(st.tuples(RATES, RATES), max_size=50), ends=st.tuples(st.floats(0, 9), st.floats(0, 9)))
def test_any_recording_reads_back(rates: list[tuple[float, float]], ends: tuple[float, float]):
    gui = np.array([ends[0], *(first for first, _ in rates), ends[1]])
    html = np.array([0.0, *(second for _, second in rates), 0.0])
    series = [Series(start=START, step=STEP, values=values) for values in (gui + html, gui, html)]
    trace = Trace(name="llm-any", column="requests", series=series[0])
    recording = Recording(trace=trace, classes={"gui": series[1], "html": series[2]}, policy=None, notes=())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv.gz"
        save_trace(recording, path)
        for column, wanted in zip(("requests", "requests_gui", "requests_html"), series, strict=True):
            again = read_trace(path, column=column).series
            assert (again.start, again.step) == (wanted.start, wanted.step)
            np.testing.assert_allclose(again.values, wanted.values, rtol=1e-9, atol=1e-300)


# ── With the daemon's settings ────────────────────────────────────────────────────────────────────────────────


def config(folder: Path, selector: str) -> Path:
    (folder / "token").write_text("opensesame\n")
    path = folder / "headstart.yaml"
    path.write_text(
        f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "http://prometheus.monitoring:9090", bearer_token_file: token, tenant: blue}}
workloads:
  - workload: llm/renamed
    selector: {selector}
    profile: {{name: mixed, classes: [{{name: gui, max_rps: 4.0}}, {{name: html, max_rps: 0.5}}]}}
""",
        encoding="utf-8",
    )
    return path


def test_a_configuration_gives_selection_and_profile(server: PrometheusServer, tmp_path: Path):
    path = config(tmp_path, "{labels: {model_name: chat}}")
    settings = parse_config(path.read_text(), path)
    renamed = record("llm/renamed", url=server.url, days=2, now=NOW, config=settings)
    gui, html = (float(np.nansum(renamed.classes[name].values)) for name in ("gui", "html"))
    assert renamed.policy is settings.policy("llm/renamed")
    assert renamed.capacity_rps == pytest.approx((gui + html) / (gui / 4.0 + html / 0.5))


def test_a_configuration_gives_credentials_and_the_address_stays_the_one_typed(tmp_path: Path):
    path = config(tmp_path, "{}")
    settings = parse_config(path.read_text(), path)
    with MisbehavingServer(lambda talk: talk.answer(200, EMPTY_VECTOR)) as silent, pytest.raises(NoTrafficError):
        record("llm/renamed", url=silent.url, days=1, now=NOW, config=settings)
    assert {each.headers["Authorization"] for each in silent.received} == {"Bearer opensesame"}
    assert {each.headers["X-Scope-OrgID"] for each in silent.received} == {"blue"}


def test_without_a_configuration_no_capacity_is_guessed(chat: Recording):
    assert chat.policy is None
    assert chat.capacity_rps is None


# ── What is not there ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "nearest", "told"),
    [
        pytest.param("llm/chta", ("llm/chat",), "did you mean llm/chat?", id="mistyped"),
        pytest.param("prod/solo", ("llm/solo",), "did you mean llm/solo?", id="another namespace"),
        pytest.param("x/zzzzzz", (), "there are llm/chat, llm/solo, llm/young", id="nothing like it"),
    ],
)
def test_who_asks_for_nobody_is_told_who_is_there(
    server: PrometheusServer, asked: str, nearest: tuple[str, ...], told: str
):
    with pytest.raises(NoTrafficError) as error:
        record(asked, url=server.url, days=2, now=NOW)
    assert error.value.nearest == nearest
    assert told in str(error.value)
    assert f"no demand of {asked} in the last 2 days" in str(error.value)


def test_an_empty_server_is_doubted():
    silent = MisbehavingServer(lambda talk: talk.answer(200, EMPTY_VECTOR))
    with silent, pytest.raises(NoTrafficError, match="is it the right server"):
        record("llm/chat", url=silent.url, days=1, now=NOW)


def test_twenty_hours_are_too_few(server: PrometheusServer):
    with pytest.raises(TooLittleTrafficError) as error:
        record("llm/young", url=server.url, days=14, now=NOW)
    assert error.value.known == pytest.approx(timedelta(hours=20), abs=timedelta(minutes=3))
    assert "only 20.0 hours of llm/young are known in the last 14 days, 43.2 hours are needed" in str(error.value)


def test_a_day_that_was_asked_for_is_enough(server: PrometheusServer):
    with pytest.raises(TooLittleTrafficError):
        record("llm/young", url=server.url, days=1, now=NOW)
    assert record("llm/solo", url=server.url, days=1, now=NOW).known == pytest.approx(
        timedelta(days=1), abs=timedelta(minutes=2)
    )


def test_nobody_listens():
    pauses: list[float] = []
    with pytest.raises(SourceError, match=r"127\.0\.0\.1"):
        record("llm/chat", url="http://127.0.0.1:9", days=14, now=NOW, pause=pauses.append)
    assert pauses == [], "nobody there is told at once"


class Stumbling:
    """Answers with nothing, and with an error from one request on for some requests."""

    def __init__(self, *, after: int, times: float) -> None:
        self.after, self.left, self.asked = after, times, 0

    def __call__(self, talk: RawConversation) -> None:
        self.asked += 1
        if self.asked > self.after and self.left > 0:
            self.left -= 1
            talk.answer(503, b"busy")
        else:
            talk.answer(200, EMPTY_VECTOR)


@pytest.mark.parametrize(
    ("times", "pauses", "ends"),
    [
        pytest.param(1, [AGAIN_AFTER_S[0]], NoTrafficError, id="one stumble is got over"),
        pytest.param(math.inf, [*AGAIN_AFTER_S], SourceError, id="a server that stays down is not"),
    ],
)
def test_a_piece_is_asked_for_again(times: float, pauses: list[float], ends: type[Exception]):
    paused: list[float] = []
    with MisbehavingServer(Stumbling(after=8, times=times)) as server, pytest.raises(ends):
        record("llm/chat", url=server.url, days=10, now=NOW, pause=paused.append)
    assert paused == pauses


@pytest.mark.parametrize(
    ("workload", "url", "days", "told"),
    [
        pytest.param("llm/chat", "http://127.0.0.1:9", 0, "days must lie between 1 and 60", id="no day"),
        pytest.param("llm/chat", "http://127.0.0.1:9", 61, "days must lie between 1 and 60", id="too many days"),
        pytest.param("chat", "http://127.0.0.1:9", 14, "namespace/name", id="no namespace"),
        pytest.param("llm/chat", "127.0.0.1:9", 14, r"http\(s\)://host", id="no address"),
    ],
)
def test_what_was_typed_wrong_is_refused_before_anyone_is_asked(workload: str, url: str, days: int, told: str):
    with pytest.raises(ValueError, match=told):
        record(workload, url=url, days=days, now=NOW)


def test_a_workload_that_the_configuration_lacks_is_refused(tmp_path: Path):
    path = config(tmp_path, "{}")
    settings = parse_config(path.read_text(), path)
    with pytest.raises(ValueError, match=r"has no workload llm/renamd; did you mean llm/renamed\?"):
        record("llm/renamd", url="http://127.0.0.1:9", days=14, now=NOW, config=settings)
