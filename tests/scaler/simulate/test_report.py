"""The report: self-contained, complete, and alive in a real browser."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaler.policy.types import Proposal, Reason
from scaler.simulate.demo import POLICIES, DemoRun
from scaler.simulate.report import render

MOST_BYTES = 3_000_000

PROBE = """
<script>
  window.__errors = [];
  addEventListener("error", (event) => window.__errors.push(String(event.message)));
  const complain = console.error;
  console.error = (...all) => { window.__errors.push(all.join(" ")); complain(...all); };
</script>
"""

LOOK = """
<script>
  const painted = (canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colors = new Set();
    let pixels = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i + 3]) { pixels++; colors.add(`${data[i]},${data[i+1]},${data[i+2]}`); }
    return { share: pixels / (data.length / 4), colors: colors.size };
  };
  setTimeout(() => {
    const canvases = [...document.querySelectorAll("canvas")];
    const week = canvases.map(painted);
    const press = (text) => [...document.querySelectorAll("button")].find((each) => each.textContent === text).click();
    const box = canvases[1].getBoundingClientRect();
    press("Mon");
    setTimeout(() => {
      canvases[1].dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2, clientY: box.top + 40 }));
      document.querySelectorAll("details").forEach((each) => { each.open = true; });
      setTimeout(() => {
        const result = {
          errors: window.__errors, week, day: canvases.map(painted),
          tip: document.querySelectorAll(".tip")[1].innerText,
          pressed: [...document.querySelectorAll("#days [aria-pressed=true]")].map((each) => each.textContent),
          rows: document.querySelectorAll(".changes tbody tr").length,
        };
        document.body.append(Object.assign(document.createElement("pre"), { id: "result", textContent: JSON.stringify(result) }));
      }, 200);
    }, 200);
  }, 200);
</script>
"""


@pytest.fixture(scope="module")
def page(two_days: DemoRun) -> str:
    return render(two_days)


def data_of(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found)


def unpacked(packed: dict) -> np.ndarray:
    raw = base64.b64decode(packed["data"])
    codes = np.frombuffer(raw, dtype="u1" if packed["bytes"] == 1 else "<u2")
    return np.where((packed["bytes"] == 2) & (codes == 65_535), np.nan, codes * packed["step"])


def test_it_is_one_file_that_asks_nobody_for_anything(page: str) -> None:
    assert len(page.encode()) < MOST_BYTES
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket", page)


def test_every_figure_of_the_table_is_the_score(page: str, two_days: DemoRun) -> None:
    rows = re.findall(r'<tr class="p-([a-z-]+)">(.*?)</tr>', page, flags=re.DOTALL)
    assert [name for name, _ in rows] == list(POLICIES)
    for name, row in rows:
        score = two_days.scores[name]
        assert f"<b>{score.under_provisioned_minutes:,.0f}</b>" in row
        assert f"<b>{score.gpu_hours:,.0f}</b>" in row
        assert f">{score.pod_starts:,}</td>" in row


def test_the_data_that_it_draws_is_the_run(page: str, two_days: DemoRun) -> None:
    drawn = data_of(page)["workloads"]
    for one, sent in zip(two_days.runs, drawn, strict=True):
        own = one.courses["headstart"]
        assert np.array_equal(unpacked(sent["serving"]["headstart"]), own.serving)
        assert np.array_equal(unpacked(sent["serving"]["oracle"]), one.courses["oracle"].serving)
        load = unpacked(sent["load"])
        assert np.max(np.abs(load - own.load)) < 1e-3 * own.load.max()
        assert np.array_equal(np.isnan(unpacked(sent["median"])), np.isnan(one.track.median))
        assert len(sent["changes"]) == len(one.track.changes)


def test_names_and_details_cannot_break_out_of_the_page(two_days: DemoRun) -> None:
    evil = "</script><script>alert(1)</script>"
    first = two_days.runs[0]
    after, decision = first.track.changes[0]
    proposal = Proposal(rule="load", want=1, keep=1, reason=Reason.LOAD, detail=evil)
    track = replace(first.track, changes=((after, replace(decision, proposals=(proposal,))),))
    virtual = replace(first.workload.virtual, name=evil)
    hostile = replace(first, track=track, workload=replace(first.workload, virtual=virtual))
    page = render(replace(two_days, runs=(hostile, *two_days.runs[1:])))
    assert evil not in page
    assert data_of(page)["workloads"][0]["name"] == evil
    assert html.escape(evil) in page


@pytest.mark.server
@pytest.mark.parametrize("scheme", [pytest.param(1, id="light"), pytest.param(0, id="dark")])
def test_a_browser_draws_every_chart_without_an_error(
    page: str, tmp_path: Path, two_days: DemoRun, scheme: int
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    file = tmp_path / "report.html"
    file.write_text(page.replace("<head>", f"<head>{PROBE}", 1).replace("</body>", f"{LOOK}</body>", 1))
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={scheme}",
            "--window-size=1300,900",
            "--virtual-time-budget=5000",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (found,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    result = json.loads(html.unescape(found))
    assert result["errors"] == []
    assert len(result["week"]) == len(two_days.runs)
    for picture in (*result["week"], *result["day"]):
        assert picture["share"] > 0.05
        assert picture["colors"] > 30
    assert result["week"] != result["day"], "the day button zooms"
    assert result["pressed"] == ["Mon"]
    assert "replicas" in result["tip"]
    assert "wants" in result["tip"], "the last decision's proposals are told"
    changes_on_monday = sum(after + 1 < 1440 for one in two_days.runs for after, _ in one.track.changes)
    assert result["rows"] == changes_on_monday
