"""The lab's report: self-contained, complete, escaped, and alive in a real browser.

Properties: what is packed comes out again; stretches cover exactly what is true; nobody beats the frontier, and
everybody else is beaten or matched by it.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.models.seasonal import LastValue
from forecaster.types import STEP, Series
from scaler.loop import Fleet
from scaler.policy.capacity import single_rate
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.limits import Bounds
from scaler.policy.types import Mode, Proposal, Reason
from scaler.simulate.cluster import VirtualCluster, VirtualWorkload
from scaler.simulate.lab_page import HUES, OWN_HUES, render
from scaler.simulate.lab_report import CAPTIONS, CliffPoint, Injection, LabPolicy, LabReport, SweepPoint, frontier
from scaler.simulate.page import packed, stretches
from scaler.simulate.policies import Hpa, Kpa, oracle, replay, replay_planner, static_peak
from scaler.simulate.product import EngineForecasts, policy_of, run
from scaler.simulate.recording import Recorder, Track
from scaler.simulate.regret import regret
from scaler.simulate.scoring import Course, score
from scaler.simulate.trace import known_policies

MOST_BYTES = 3_000_000
START = datetime(2026, 3, 2, tzinfo=UTC)
BINS, OPENS, COLD_START_BINS = 2160, 1500, 3
EVIL = "</script><script>window.__hacked = 1</script><img src=x onerror=window.__hacked=1>\"'"


def a_load() -> np.ndarray:
    """Six waves in 36 hours, with a jump that nothing announces and five minutes without a measurement."""
    minutes = np.arange(BINS)
    load = 5.0 - 4.0 * np.cos(minutes * 2 * np.pi / 360.0) + 0.3 * np.sin(minutes * 1.7)
    load[1840:1870] += 6.0
    load[1740:1745] = np.nan
    return load


def the_product(load: np.ndarray) -> tuple[Course, Track]:
    """The daemon's tick over the load, a day of it before the window opens: without that nothing is forecast."""
    workload = VirtualWorkload(
        name="trace/test",
        demand_rps=Series(start=START, step=STEP, values=10.0 * load),
        profile=single_rate("test", 10.0),
        cold_start_bins=COLD_START_BINS,
    )
    settings = WorkloadPolicy(
        workload=workload.name, profile=workload.profile, mode=Mode.ACTIVE, bounds=Bounds(max_replicas=100)
    )
    recorder = Recorder([workload])
    cluster = VirtualCluster([workload], replicas={workload.name: 3})
    fleet = Fleet(workloads=(policy_of(workload, settings),))
    run(fleet, cluster, EngineForecasts([workload], [LastValue()]), observe=recorder.observe)
    return cluster.course(workload.name).window(OPENS, BINS), recorder.tracks()[workload.name].window(OPENS, BINS)


def a_policy(name: str, course: Course, track: Track | None = None) -> LabPolicy:
    causes = regret(course, oracle(course.load, COLD_START_BINS), cold_start_bins=COLD_START_BINS).as_json()
    return LabPolicy(name=name, score=score(course).as_json(), course=course, regret=causes, track=track)


@pytest.fixture(scope="module")
def report() -> LabReport:
    """Five policies with everything that a report can hold."""
    course, track = the_product(a_load())
    load, start = course.load, START + OPENS * STEP
    courses = {
        "hpa": replay(Hpa(), load, cold_start_bins=COLD_START_BINS),
        "kpa:0.8": replay_planner(
            Kpa(target_ratio=0.8), load, start=start, step=STEP, cold_start_bins=COLD_START_BINS, history=load[:0]
        ),
        "static-peak": static_peak(load, COLD_START_BINS),
        "oracle": oracle(load, COLD_START_BINS),
    }
    swept = [(f"hpa:{each}", replay(Hpa(utilisation=each), load, cold_start_bins=3)) for each in (0.5, 0.7, 0.9, 1.0)]
    figures = {name: score(each) for name, each in swept}
    return LabReport(
        trace="test",
        column="requests",
        start=start,
        step=STEP,
        load=load,
        policies=(a_policy("headstart", course, track), *(a_policy(name, each) for name, each in courses.items())),
        capacity_rps=10.0,
        cold_start=COLD_START_BINS * STEP,
        seed=7,
        version="9.9.9",
        command="headstart simulate --trace test.csv --sweep --report lab.html",
        sweep={
            "hpa": [SweepPoint(name, each.under_provisioned_ratio, each.gpu_ratio) for name, each in figures.items()]
        },
        cliff={
            "headstart": [CliffPoint(0, 0.005, 1.2, 0.999), CliffPoint(300, 0.01, 1.3, 0.99)],
            "hpa": [CliffPoint(0, 0.001, 1.4, 0.99), CliffPoint(300, 0.2, 1.4, 0.8)],
        },
        events=(Injection(name="×3 step", start=start + timedelta(hours=5), end=start + timedelta(hours=6)),),
        facts={"profile": "h100-like"},
    )


@pytest.fixture(scope="module")
def page(report: LabReport) -> str:
    return render(report)


def data_of(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def unpacked(sent: dict) -> np.ndarray:
    codes = np.frombuffer(base64.b64decode(sent["data"]), dtype="u1" if sent["bytes"] == 1 else "<u2")
    return np.where((sent["bytes"] == 2) & (codes == 65_535), np.nan, codes * sent["step"])


def text_of(fragment: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", fragment)).replace("\u00a0", " ")


# ── What travels ──────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.one_of(st.just(float("nan")), st.floats(0.0, 1e6)), max_size=50))
def test_what_is_packed_comes_out_again(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    back = unpacked(packed(array))
    assert np.array_equal(np.isnan(back), np.isnan(array))
    most = np.nanmax(array, initial=1e-9)
    assert np.nanmax(np.abs(back - array), initial=0.0) <= most / 60_000


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=50))
def test_whole_numbers_come_out_exactly(values: list[int]) -> None:
    assert unpacked(packed(np.array(values))).tolist() == values
    assert unpacked(packed(np.array([*values, np.nan])))[:-1].tolist() == values


@given(st.lists(st.booleans(), max_size=60))
def test_stretches_cover_what_is_true_and_nothing_else(flags: list[bool]) -> None:
    found = stretches(np.array(flags, dtype=bool))
    covered = [any(first <= i < last for first, last in found) for i in range(len(flags))]
    assert covered == flags
    assert all(one[1] < other[0] for one, other in pairwise(found))


POINTS = st.lists(st.builds(SweepPoint, st.just("p"), st.floats(0, 1), st.floats(1, 5)), max_size=20)


@given(POINTS)
def test_nobody_beats_the_frontier(points: list[SweepPoint]) -> None:
    best = frontier(points)
    for point in points:
        assert any(each.missed_ratio <= point.missed_ratio and each.gpu_ratio <= point.gpu_ratio for each in best)
    for each, nxt in pairwise(best):
        assert each.gpu_ratio < nxt.gpu_ratio
        assert each.missed_ratio > nxt.missed_ratio


# ── What the product left ─────────────────────────────────────────────────────────────────────────────────────


def test_a_track_keeps_every_decision_where_it_was_made(report: LabReport) -> None:
    course, track = report.subject.course, report.subject.track
    assert track is not None
    assert len(track.decisions) == course.load.size
    for after, decision in track.changes:
        if 0 <= after < course.load.size - 1:
            assert track.decisions[after] is decision
            assert course.billed[after + 1] == decision.target, "what was decided after a bin is ordered in the next"


def test_a_change_just_before_the_window_is_the_first_of_it(report: LabReport) -> None:
    track = report.subject.track
    assert track is not None
    after, decision = next(each for each in track.changes if each[0] > 10)
    assert track.window(after + 1, after + 50).changes[0] == (-1, decision)
    assert all(each >= 0 for each, _ in track.window(after + 2, after + 50).changes)


def test_the_data_that_it_draws_is_the_run(report: LabReport, page: str) -> None:
    sent = data_of(page)
    assert sent["bins"] == report.load.size
    assert np.array_equal(np.isnan(unpacked(sent["load"])), np.isnan(report.load))
    for one, policy in zip(sent["policies"], report.policies, strict=True):
        assert np.array_equal(unpacked(one["serving"]), policy.course.serving)
        assert np.array_equal(unpacked(one["billed"]), policy.course.billed)
        assert sum(last - first for first, last in one["missed"]) == policy.course.missed.sum()


def test_every_decision_travels_with_its_proposals_and_clamps(report: LabReport, page: str) -> None:
    track = report.subject.track
    assert track is not None
    sent = data_of(page)["policies"][0]["track"]
    clamped = unpacked(sent["clamped"])
    opinions = {rule: [unpacked(each) for each in pair] for rule, pair in sent["opinions"].items()}
    assert {"load", "predictive"} <= set(opinions)
    for index, decision in enumerate(track.decisions):
        assert decision is not None
        for proposal in decision.proposals:
            want, keep = opinions[proposal.rule]
            assert (want[index], keep[index]) == (proposal.want, proposal.keep)
        chain = [[each.rule, each.before, each.after, each.reason.value] for each in decision.adjustments]
        assert sent["clamps"][int(clamped[index])] == chain
    assert any(each and each.adjustments for each in track.decisions), "the run shows clamps at all"


# ── What is read ──────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_one_file_that_asks_nobody_for_anything(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket", page)


def rows_of(page: str) -> dict[str, str]:
    (table,) = re.findall(r'id="scores">(.*?)</table>', page, flags=re.DOTALL)
    return {name: text_of(row) for name, row in re.findall(r'data-name="([^"]*)">(.*?)</tr>', table, flags=re.DOTALL)}


def test_every_figure_of_the_table_is_the_score(report: LabReport, page: str) -> None:
    rows = rows_of(page)
    assert list(rows) == [each.name for each in report.policies]
    for policy in report.policies:
        counted = score(policy.course)
        assert f"{100 * counted.under_provisioned_ratio:.2f} %" in rows[policy.name]
        assert f"{counted.gpu_ratio:.2f}" in rows[policy.name]
        assert f"{counted.gpu_hours:,.1f}" in rows[policy.name]
        assert f" {counted.pod_starts:,} " in rows[policy.name]
    assert "Kubernetes HPA" in rows["hpa"]
    assert "Knative" in rows["kpa:0.8"], "a setting has the caption of its family"


def test_every_family_of_policies_has_a_caption_and_a_hue(report: LabReport) -> None:
    families = {each.partition(":")[0] for each in known_policies(())}
    assert families <= set(CAPTIONS)
    style = render(report)
    assert all(f"--{HUES.get(family, family)}: #" in style for family in families)
    assert {HUES.get(family, family) for family in families} <= set(OWN_HUES)


def test_columns_of_money_and_slo_are_there_when_somebody_has_them(report: LabReport, page: str) -> None:
    assert "SLO met" not in text_of(page.partition('id="scores"')[2].partition("</table>")[0])
    first, second, *rest = report.policies
    slo = {"slo_attainment": 0.98765, "slo_violation_minutes": 12.0, "dropped_requests": 345}
    mine = replace(first, slo=slo, score={**first.score, "money": 123.4})
    rich = replace(report, policies=(mine, second, *rest), currency="$")
    rows = rows_of(render(rich))
    assert "98.77 %" in rows["headstart"]
    assert "345" in rows["headstart"]
    assert "$123.40" in rows["headstart"]
    assert rows["hpa"].count("–") == 4, "who has no such figure shows a dash"


def test_what_was_run_can_be_repeated(report: LabReport, page: str) -> None:
    told = text_of(page[page.index('id="run-title"') :])
    for wanted in (report.command, "9.9.9", "requests", "180 s", "10 a second", "3 Mar 2026 01:00", "h100-like"):
        assert wanted in told


def test_regret_adds_up_in_its_table(report: LabReport, page: str) -> None:
    (table,) = re.findall(r'aria-label="Missed minutes by cause">(.*?)</table>', page, flags=re.DOTALL)
    for policy in report.policies:
        (row,) = re.findall(rf"<tr><td>{re.escape(policy.name)}</td>(.*?)</tr>", table, flags=re.DOTALL)
        *parts, total = [float(each.replace(",", "")) for each in re.findall(r">([\d.,]+)<", row)]
        assert sum(parts) == pytest.approx(total, abs=0.21)
        assert total == pytest.approx(policy.score["under_provisioned_minutes"], abs=0.05)


def test_the_headline_names_the_cheapest_rival_that_misses_no_more(report: LabReport) -> None:
    points = [
        SweepPoint("hpa:0.5", 0.001, 2.0),
        SweepPoint("hpa:0.6", 0.004, 1.6),
        SweepPoint("hpa:0.9", 0.3, 1.1),
        SweepPoint("oracle", 0.0, 1.01),
        SweepPoint("headstart:lstm", 0.0, 1.2),
    ]
    mine = replace(report.policies[0], score={**report.policies[0].score, "under_provisioned_ratio": 0.005})
    asked = replace(report, policies=(mine,), sweep={"any": points})
    assert asked.as_safe == points[1]
    assert "hpa:0.6 misses 0.40 %" in text_of(render(asked))
    assert replace(asked, sweep=None).as_safe is None


@pytest.mark.parametrize(
    ("names", "subject", "rival"),
    [
        pytest.param(("oracle", "kpa", "hpa:0.6", "headstart"), "headstart", "hpa:0.6", id="an HPA before others"),
        pytest.param(("headstart", "oracle", "kpa"), "headstart", "kpa", id="never one that knows the future"),
        pytest.param(("kpa", "hpa"), "kpa", "hpa", id="the first where the product is not played"),
        pytest.param(("headstart", "oracle"), "headstart", None, id="nobody to compare with"),
    ],
)
def test_who_the_page_is_about(report: LabReport, names: tuple[str, ...], subject: str, rival: str | None) -> None:
    course = report.policies[0].course
    asked = replace(report, policies=tuple(a_policy(name, course) for name in names), cliff=None)
    assert asked.subject.name == subject
    assert (asked.rival.name if asked.rival else None) == rival
    assert render(asked)


def test_courses_of_unequal_length_are_no_report(report: LabReport) -> None:
    short = replace(report.policies[1], course=report.policies[1].course.window(0, 10))
    with pytest.raises(ValueError, match=r"equal bins, got 2 over \[10, 660\]"):
        replace(report, policies=(report.policies[0], short))
    with pytest.raises(ValueError, match="the track has 660 bins and the course 10"):
        replace(report.policies[0], course=report.policies[0].course.window(0, 10))


def hostile(report: LabReport) -> LabReport:
    """Every text of the report tries to break out."""
    first, *others = report.policies
    assert first.track is not None
    after, decision = first.track.changes[0]
    proposal = Proposal(rule=EVIL, want=1, keep=1, reason=Reason.LOAD, detail=EVIL)
    decisions = tuple(replace(each, proposals=(proposal,)) if each else each for each in first.track.decisions)
    changes = ((after, replace(decision, proposals=(proposal,))), *first.track.changes[1:])
    track = replace(first.track, changes=changes, decisions=decisions)
    return replace(
        report,
        trace=EVIL,
        column=EVIL,
        command=EVIL,
        version=EVIL,
        policies=(replace(first, track=track), *(replace(each, name=EVIL, caption=EVIL) for each in others[:1])),
        events=tuple(replace(each, name=EVIL) for each in report.events),
        sweep={EVIL: [SweepPoint(EVIL, 0.01, 1.1)]},
        cliff={EVIL: [CliffPoint(0, 0.1, 1.1), CliffPoint(60, 0.2, 1.2)]},
        facts={EVIL: EVIL},
    )


def test_texts_cannot_break_out_of_the_page(report: LabReport) -> None:
    page = render(hostile(report))
    assert "<script>window" not in page
    assert "<img" not in page
    assert data_of(page)["policies"][1]["name"] == EVIL


def test_a_week_of_minutes_and_eight_policies_stays_small(report: LabReport) -> None:
    times = 10_080 // report.load.size + 1
    first = report.policies[0]
    assert first.track is not None
    one, bins = first.track, report.load.size

    def longer(course: Course) -> Course:
        return Course(
            load=np.tile(course.load, times),
            serving=np.tile(course.serving, times),
            billed=np.tile(course.billed, times),
            before=course.before,
        )

    arrays = {name: np.tile(getattr(one, name), times) for name in ("median", "upper", "order", "reason", "trust", "z")}
    track = Track(
        **arrays,
        changes=tuple((after + bins * turn, each) for turn in range(times) for after, each in one.changes),
        decisions=one.decisions * times,
    )
    course = longer(first.course)
    others = [a_policy(f"hpa:0.{index}", longer(report.policies[1].course)) for index in range(1, 8)]
    week = replace(report, load=course.load, policies=(replace(first, course=course, track=track), *others))
    assert week.load.size >= 10_080
    assert len(render(week).encode()) < MOST_BYTES


# ── In a browser ──────────────────────────────────────────────────────────────────────────────────────────────

PROBE = """
<script>
  window.__errors = [];
  addEventListener("error", (event) => window.__errors.push(String(event.message)));
  addEventListener("securitypolicyviolation", (event) => window.__errors.push("CSP: " + event.violatedDirective));
  const complain = console.error;
  console.error = (...all) => { window.__errors.push(all.join(" ")); complain(...all); };
  window.requestAnimationFrame = (paint) => setTimeout(paint, 16);  // virtual time skips frames now and then
  HTMLElement.prototype.setPointerCapture = () => {};  // made-up pointers cannot be captured
</script>
"""

HANDS = """
<script>
(async () => {
  const rest = () => new Promise((done) => setTimeout(done, 120));
  const $ = (id) => document.getElementById(id);
  const canvas = $("chart"), at = (share) => {
    const box = canvas.getBoundingClientRect();
    return { clientX: box.left + 118 + share * (box.width - 132), clientY: box.top + 60 };
  };
  const pointer = (type, share, more = {}) => canvas.dispatchEvent(new PointerEvent(type, { bubbles: true, button: 0, ...at(share), ...more }));
  const key = (name) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const wheel = (deltaY, more = {}) => !canvas.dispatchEvent(new WheelEvent("wheel", { deltaY, cancelable: true, ...at(0.5), ...more }));
  const painted = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), colors = new Set();
    for (let i = 0; i < data.length; i += 4) if (data[i + 3]) colors.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
    return colors.size;
  };
  const names = () => [...document.querySelectorAll("#scores tbody tr")].map((each) => each.dataset.name);
  const press = (text) => [...document.querySelectorAll("button")].find((each) => each.textContent === text).click();
  const seen = { range: {} };
  const note = async (name) => { await rest(); seen.range[name] = $("range").textContent; };

  await note("all");
  seen.colors = painted();
  seen.height = document.documentElement.scrollHeight;
  seen.first = $("panel").innerText;
  pointer("pointermove", 0.6);
  await rest();
  seen.hover = $("panel").innerText;
  pointer("pointerleave", 0.6);
  await rest();
  seen.left = $("panel").innerText;
  pointer("pointerdown", 0.25); pointer("pointermove", 0.5); pointer("pointerup", 0.5);
  await note("dragged");
  pointer("pointerdown", 0.5, { shiftKey: true }); pointer("pointermove", 0.75, { shiftKey: true }); pointer("pointerup", 0.75, { shiftKey: true });
  await note("panned");
  seen.wheelTaken = [wheel(-200), wheel(-200, { ctrlKey: true })];
  await note("wheeled");
  key("0");
  await note("reset");
  canvas.focus();
  key("+");
  await note("plus");
  key("n");
  await note("missed");
  seen.missed = $("panel").innerText;
  seen.spoken = $("spoken").textContent;
  key("ArrowRight");
  await rest();
  seen.moved = $("panel").innerText;
  $("decisions").open = true;
  key("0");
  await rest();
  seen.changes = document.querySelectorAll("#decisions tbody tr").length;
  $("whose").selectedIndex = 1;
  $("whose").dispatchEvent(new Event("change"));
  seen.rivalChanges = document.querySelector("#decisions .changes p").textContent;
  $("decisions").open = false;

  const before = painted();
  press("oracle");
  await rest();
  seen.legend = painted() !== before;
  const sort = [...document.querySelectorAll("#scores thead button")];
  sort[3].click();
  seen.sorted = names();
  sort[3].click();
  seen.reversed = names();
  press("shares");
  seen.shares = $("regrets").dataset.shares;

  const svg = document.querySelector("#pareto svg");
  const dot = svg.querySelector(".mark.full").getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: dot.left + 5, clientY: dot.top + 5 }));
  seen.point = document.querySelector("#pareto .bubble").innerText;
  svg.focus();
  svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", cancelable: true }));
  seen.pointSpoken = document.querySelector("#pareto ~ .live").textContent;
  seen.lines = [...document.querySelectorAll(".plane")].map((each) => each.querySelectorAll("path.path").length);
  const figure = $("cliff-figure"), tick = () => document.querySelector("#cliff svg").innerHTML;
  seen.figures = [...figure.options].map((each) => each.textContent);
  const missed = tick();
  figure.selectedIndex = 2;
  figure.dispatchEvent(new Event("change"));
  seen.cliffChanged = missed !== tick();

  const paper = () => getComputedStyle(document.body).backgroundColor;
  seen.paper = [paper()];
  $("theme").click();
  seen.paper.push(paper());
  await rest();
  seen.grown = document.documentElement.scrollHeight - seen.height;
  seen.sideways = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  report(seen);
})();
</script>
"""

GLANCE = """
<script>
setTimeout(() => report({
  hacked: window.__hacked || 0, title: document.title, panel: document.getElementById("panel").innerText,
  command: document.getElementById("command").textContent, sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
}), 400);
</script>
"""

TELL = """
<script>
const report = (seen) => document.body.append(Object.assign(document.createElement("pre"), { id: "result", textContent: JSON.stringify({ errors: window.__errors, ...seen }) }));
</script>
"""


def browse(page: str, script: str, tmp_path: Path, *, dark: bool = False, width: int = 1300) -> dict:
    """What the script saw of the page in a real browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    file = tmp_path / "lab.html"
    file.write_text(page.replace("<head>", f"<head>{PROBE}", 1).replace("</body>", f"{TELL}{script}</body>", 1))
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={int(not dark)}",
            f"--window-size={width},1000",
            "--virtual-time-budget=20000",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (found,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    return json.loads(html.unescape(found))


@pytest.fixture(scope="module")
def seen(page: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What hands on the full page bring about, once for all stories below."""
    return browse(page, HANDS, tmp_path_factory.mktemp("lab"))


@pytest.mark.server
def test_a_browser_has_nothing_to_complain_about(seen: dict) -> None:
    assert seen["errors"] == []
    assert seen["colors"] > 30
    assert seen["grown"] == 0, "nothing that was done moves the page"
    assert seen["sideways"] <= 0


@pytest.mark.server
def test_hovering_tells_replicas_and_reasons(seen: dict, report: LabReport) -> None:
    assert seen["hover"] != seen["first"]
    assert seen["left"] == seen["hover"], "the cursor stays where it was"
    for policy in report.policies:
        assert policy.name in seen["hover"]
    assert "wants" in seen["hover"]
    assert "keeps" in seen["hover"]
    assert "last change" in seen["hover"] or "now:" in seen["hover"]


@pytest.mark.server
def test_the_range_follows_drag_wheel_and_keys(seen: dict) -> None:
    ranges = seen["range"]
    assert ranges["all"] == ranges["reset"] == "Tue 3 01:00 to Tue 3 12:00 UTC"
    assert ranges["dragged"].startswith("Tue 3 03:4")
    assert ranges["panned"] < ranges["dragged"], "what is pulled right shows what was before"
    assert seen["wheelTaken"] == [False, True], "the wheel belongs to the page until Ctrl or a click asks for it"
    assert ranges["wheeled"] != ranges["panned"]
    assert ranges["plus"] != ranges["all"]


@pytest.mark.server
def test_n_goes_to_the_next_miss(seen: dict) -> None:
    headstart = next(line for line in seen["missed"].splitlines() if line.startswith("headstart"))
    assert "✕" in headstart
    assert "missed" in seen["spoken"]
    assert seen["moved"] != seen["missed"]


@pytest.mark.server
def test_changes_in_view_are_listed_for_any_policy(seen: dict, report: LabReport) -> None:
    track = report.subject.track
    assert track is not None
    bins = report.load.size
    assert seen["changes"] == sum(after + 1 < bins for after, _ in track.changes)
    events = score(report.policies[1].course).scale_events
    assert seen["rivalChanges"].startswith(f"{events} changes")


@pytest.mark.server
def test_tables_sort_and_pictures_switch(seen: dict, report: LabReport) -> None:
    by_ratio = [each.name for each in sorted(report.policies, key=lambda each: each.gpu_ratio)]
    assert seen["sorted"] == by_ratio
    assert seen["reversed"] == by_ratio[::-1]
    assert seen["legend"]
    assert seen["shares"] == "yes"
    assert seen["figures"] == ["missed", "GPU ratio", "SLO met"]
    assert seen["cliffChanged"]
    assert seen["lines"] == [1, 2], "one line a swept family, one a policy over cold starts"
    assert seen["paper"][0] != seen["paper"][1]


@pytest.mark.server
def test_points_name_their_setting(seen: dict) -> None:
    assert "missed" in seen["point"]
    assert "× the least GPU time" in seen["point"]
    assert seen["pointSpoken"]


@pytest.mark.server
def test_hostile_texts_do_nothing_but_show(report: LabReport, tmp_path: Path) -> None:
    seen = browse(render(hostile(report)), GLANCE, tmp_path)
    assert seen["errors"] == []
    assert seen["hacked"] == 0
    assert seen["command"] == EVIL
    assert EVIL in seen["title"]
    assert "<img" in seen["panel"]


def plain(report: LabReport) -> LabReport:
    first = report.policies[0]
    return replace(
        report, policies=(replace(first, track=None, regret=None),), sweep=None, cliff=None, events=(), facts=None
    )


def nothing_known(report: LabReport) -> LabReport:
    bins = 30
    course = Course(
        load=np.full(bins, np.nan), serving=np.ones(bins, dtype=int), billed=np.ones(bins, dtype=int), before=1
    )
    policy = LabPolicy(name="hpa", score=score(course).as_json(), course=course)
    return replace(plain(report), load=course.load, policies=(policy,), step=timedelta(minutes=10))


def five_bins(report: LabReport) -> LabReport:
    course = report.policies[1].course.window(0, 5)
    policy = LabPolicy(name="my-own:3", score=score(course).as_json(), course=course)
    return replace(plain(report), load=course.load, policies=(policy,), step=timedelta(seconds=1))


@pytest.mark.server
@pytest.mark.parametrize(
    ("changed", "dark", "width"),
    [
        pytest.param(lambda report: report, True, 1300, id="dark"),
        pytest.param(lambda report: report, False, 500, id="narrow"),
        pytest.param(plain, False, 1300, id="one policy and nothing else"),
        pytest.param(nothing_known, False, 1300, id="ten-minute bins without a load"),
        pytest.param(five_bins, False, 1300, id="five seconds of a policy nobody knows"),
    ],
)
def test_any_report_is_a_page(report: LabReport, tmp_path: Path, changed, dark: bool, width: int) -> None:
    page = render(changed(report))
    data_of(page)
    seen = browse(page, GLANCE, tmp_path, dark=dark, width=width)
    assert seen["errors"] == []
    assert seen["sideways"] <= 0
    assert "load" in seen["panel"]
