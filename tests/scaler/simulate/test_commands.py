"""`simulate` and `backtest` as people and scripts meet them: documents, tables, defaults, files and refusals."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaler.cli import main

TRACES = Path(__file__).resolve().parents[3].parent / "shared" / "traces"
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Its stdout as JSON."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Headstart = Callable[..., Ran]


@pytest.fixture
def headstart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Headstart:
    """The command in this process."""
    monkeypatch.delenv("HEADSTART_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: str | Path) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        code = left.value.code
        return Ran(code=code if isinstance(code, int) else 0, out=captured.out, err=captured.err)

    return run


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of ten-minute bins: a daily wave of requests, and tokens that are a hundred times as many."""
    path = tmp_path_factory.mktemp("traces") / "wave.csv.gz"
    bins = np.arange(432)
    requests = 6000.0 - 4000.0 * np.cos(2.0 * np.pi * bins / 144) + np.random.default_rng(3).normal(0.0, 300.0, 432)
    with gzip.open(path, "wt") as stream:
        writer = csv.writer(stream)
        writer.writerow(("timestamp", "tokens", "requests"))
        for index, value in zip(bins.tolist(), requests.tolist(), strict=True):
            writer.writerow(
                ((MONDAY + timedelta(minutes=10 * index)).isoformat(), f"{100 * value:.1f}", f"{value:.1f}")
            )
    return path


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day and a half of minutes with a request or two a second."""
    path = tmp_path_factory.mktemp("traces") / "minutes.csv"
    rows = ((MONDAY + timedelta(minutes=index), 90 + 30 * (index % 7)) for index in range(2160))
    path.write_text("timestamp,requests\n" + "".join(f"{at.isoformat()},{count}\n" for at, count in rows))
    return path


# ── simulate ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_simulate_answers_one_document(headstart: Headstart, wave: Path) -> None:
    ran = headstart("simulate", "--trace", wave, "-o", "json")
    document = ran.document
    assert ran.code == 0
    assert (document["apiVersion"], document["kind"], document["trace"]) == ("headstart/v1", "Simulation", str(wave))
    assert (document["cold_start_s"], document["column"]) == (180.0, "requests")
    assert [each["name"] for each in document["policies"]] == ["headstart", "reactive", "hpa", "oracle"]
    for each in document["policies"]:
        assert set(each) == {
            "name",
            "gpu_hours",
            "gpu_ratio",
            "under_provisioned_ratio",
            "under_provisioned_minutes",
            "scale_events",
            "pod_starts",
            "regret",
        }
    assert (document["score_from"], document["score_to"]) == ("2026-03-03T00:00:00+00:00", "2026-03-05T00:00:00+00:00")
    assert "headstart forecasts with last-value" in ran.err


def test_simulate_prints_a_table(headstart: Headstart, wave: Path) -> None:
    ran = headstart("simulate", "--trace", wave, "--policies", "hpa-plain:0.7, oracle-instant")
    header, _, *rows = ran.out.splitlines()
    assert header.split()[:3] == ["POLICY", "GPU-HOURS", "GPU"]
    assert [row.split()[0] for row in rows] == ["hpa-plain:0.7", "oracle-instant"]
    assert rows[1].split()[2] == "1.000"
    assert "scored 2026-03-03 00:00 to 2026-03-05 00:00 UTC" in ran.err
    assert "forecasts with" not in ran.err, "nobody asked for the product"


def test_what_was_rounded_and_what_is_unknown_is_said(headstart: Headstart, wave: Path, tmp_path: Path) -> None:
    """30 s on ten-minute bins is played as ten minutes, and a share of few known bins is a share of few."""
    said = headstart("simulate", "--trace", wave, "--policies", "hpa", "--cold-start", "10m").err
    assert "cold start 600 s\n" in said
    assert "unknown" not in said
    lines = gzip.decompress(wave.read_bytes()).decode().splitlines()
    holed = tmp_path / "holed.csv"
    holed.write_text("\n".join(line for index, line in enumerate(lines) if not index or index % 10))
    page = tmp_path / "lab.html"
    ran = headstart("simulate", "--trace", holed, "--policies", "kpa", "--cold-start", "30s", "--report", page)
    assert "cold start 30 s, played as 600 s (whole bins)" in ran.err
    assert "29 of 288 bins are unknown: neither scored nor billed" in ran.err
    html = page.read_text()
    assert "pods that take 600 s to start" in html
    assert "30 s, rounded up to whole bins" in html
    assert "288 of 600 s, 29 of them unknown" in html
    assert "of 2,590 minutes" in html, "those that are known"
    assert "0 other policies" not in html


def test_a_column_and_a_window_can_be_named(headstart: Headstart, wave: Path) -> None:
    by_requests, by_tokens = (
        headstart("simulate", "--trace", wave, "--policies", "hpa", "--column", column, "-o", "json").document
        for column in ("requests", "tokens")
    )
    assert by_tokens["capacity_rps"] == pytest.approx(100.0 * by_requests["capacity_rps"], rel=1e-3)
    assert by_tokens["policies"] == by_requests["policies"], "the unit cancels out"
    part = headstart(
        *("simulate", "--trace", wave, "--policies", "oracle-instant", "--capacity-rps", "1e9", "-o", "json"),
        *("--score-from", "2026-03-04T06:00", "--score-to", "2026-03-04T10:00:00+02:00"),
    ).document
    (only,) = part["policies"]
    assert part["score_to"] == "2026-03-04T08:00:00+00:00"
    assert only["gpu_hours"] == 2.0, "one replica for two hours"


def test_every_bin_of_every_policy_goes_into_a_csv(headstart: Headstart, wave: Path, tmp_path: Path) -> None:
    out = tmp_path / "bins.csv"
    ran = headstart("simulate", "--trace", wave, "--policies", "hpa,kpa", "--csv", out, "-o", "json")
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["unique_id", "ds", "y", "policy", "serving", "billed", "missed"]
    assert len(rows) == 2 * 288
    for each in ran.document["policies"]:
        own = [row for row in rows if row["policy"] == each["name"]]
        assert sum(int(row["billed"]) for row in own) / 6.0 == pytest.approx(each["gpu_hours"], abs=1e-3)
        assert sum(int(row["missed"]) for row in own) * 10.0 == each["under_provisioned_minutes"]
        assert all((float(row["y"]) > int(row["serving"])) == (row["missed"] == "1") for row in own)


def test_simulate_writes_a_page_to_look_at(headstart: Headstart, wave: Path, tmp_path: Path) -> None:
    page = tmp_path / "lab.html"
    ran = headstart("simulate", "--trace", wave, "--policies", "headstart,hpa", "--report", page, "--price", "2.5")
    assert ran.code == 0
    assert f"wrote {page}" in ran.err
    text = page.read_text(encoding="utf-8")
    assert "Headstart lab" in text
    assert '"opinions"' in text, "what the product decided, and why"
    assert "COST" in ran.out


def test_a_sweep_tells_what_each_family_costs_at_the_same_risk(headstart: Headstart, wave: Path) -> None:
    ran = headstart(
        "simulate",
        "--trace",
        wave,
        "--policies",
        "hpa,kpa",
        "--score-from",
        "2026-03-04T12:00",
        "--sweep",
        "-o",
        "json",
    )
    document = ran.document
    assert [each["name"] for each in document["policies"]] == ["hpa", "kpa"]
    matched = {(each["family"], each["tuned_in_hindsight"]): each for each in document["sweep"]["matched"]}
    assert {("headstart", False), ("headstart", True), ("hpa", True), ("kpa", True)} <= set(matched)
    assert any(each["frontier"] for each in document["sweep"]["points"])
    cold_starts = {each["cold_start_s"] for each in document["cold_start_sweep"]["points"]}
    assert cold_starts == {0.0, 300.0}, "ten-minute bins know two cold starts within five minutes"
    assert {each["policy"] for each in document["cold_start_sweep"]["cliffs"]} == {"hpa", "kpa"}


def test_with_a_profile_requests_are_served_one_by_one(headstart: Headstart, minutes: Path, tmp_path: Path) -> None:
    page = tmp_path / "served.html"
    arguments = ("simulate", "--trace", minutes, "--profile", "llama-3.1-8b-h100", "--policies", "hpa,static-peak")
    window = ("--score-from", "2026-03-03T11:00", "--seeds", "2", "--inject", "spike@+20m", "--report", page)
    rows = tmp_path / "rows.csv"
    document = headstart(*arguments, *window, "--price", "2", "--csv", rows, "-o", "json").document
    assert len(rows.read_text().splitlines()) == 1 + 2 * 2 * 60, "a row a policy, seed and minute"
    assert all(each["money"] == pytest.approx(2.0 * each["gpu_hours"], abs=0.01) for each in document["policies"])
    assert (document["kind"], document["profile"], document["seeds"]) == ("Simulation", "llama-3.1-8b-h100", [1, 2])
    assert document["requests_scale"] == 1.0, "as it is, unless --peak-replicas scales it"
    for each in document["policies"]:
        assert 0.0 < each["slo_attainment"] <= 1.0
        assert {"slo_violation_minutes", "dropped_requests", "gpu_hours", "ci95"} <= set(each)
        assert set(each["classes"]) == {"conversation", "code"}
    assert "spike" in page.read_text(encoding="utf-8")


def test_with_a_profile_a_sweep_compares_costs_at_equal_attainment(headstart: Headstart, minutes: Path) -> None:
    arguments = ("simulate", "--trace", minutes, "--profile", "llama-3.1-8b-h100", "--policies", "hpa", "--sweep")
    ran = headstart(*arguments, "--score-from", "2026-03-03T11:50")
    assert ran.code == 0
    assert "headstart (as it comes)" in ran.out
    assert "BEARS A COLD START OF" in ran.out


def test_each_policy_and_class_has_a_row_of_its_own(headstart: Headstart, minutes: Path) -> None:
    arguments = ("simulate", "--trace", minutes, "--profile", "llama-3.1-8b-h100", "--policies", "hpa")
    ran = headstart(*arguments, "--score-from", "2026-03-03T11:30", "--seeds", "2")
    assert " ± " in ran.out
    assert [line.split()[:2] for line in ran.out.splitlines() if line.split()[0] == "hpa"][1:] == [
        ["hpa", "conversation"],
        ["hpa", "code"],
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        pytest.param(("--policies", "hpaa"), 2, "Did you mean 'hpa'? There are headstart, ", id="policy"),
        pytest.param(("--policies", "headstart:holt-winter"), 2, "Did you mean 'headstart:holt-winters'", id="model"),
        pytest.param(("--policies", ","), 2, "at least one name", id="no policy"),
        pytest.param(("--cold-start", "soon"), 2, "180s, 3m or 1h30m", id="duration"),
        pytest.param(("--score-from", "Tuesday"), 2, "2026-11-20T18:00:00Z", id="moment"),
        pytest.param(("--score-from", "2026-03-04", "--score-to", "2026-03-03"), 2, "after --score-from", id="window"),
        pytest.param(("--peak-replicas", "8", "--capacity-rps", "2"), 2, "give either", id="two capacities"),
        pytest.param(("--capacity-rps", "0"), 2, "above 0", id="no capacity"),
        pytest.param(("--price", "-1"), 2, "above 0", id="price"),
        pytest.param(("--seeds", "5"), 2, "need --profile", id="seeds without requests"),
        pytest.param(("--inject", "step@+1h"), 2, "need --profile", id="events without requests"),
        pytest.param(("--from-prometheus", "http://127.0.0.1:1"), 2, "either --trace FILE or", id="two sources"),
        pytest.param(("--workload", "llm/chat"), 2, "go with --from-prometheus", id="whose"),
        pytest.param(("--profile", "nothing.yaml"), 2, "nothing.yaml", id="profile"),
        pytest.param(
            ("--profile", "qwen3-vl-2b-24gb"), 2, "needs `service` and `start`", id="profile without a service"
        ),
        pytest.param(("--profile", "llama-3.1-8b-h100", "--capacity-rps", "3"), 2, "what a replica serves", id="both"),
        pytest.param(("--profile", "llama-3.1-8b-h100", "--inject", "stop@+1h"), 2, "Did you mean 'step'?", id="event"),
        pytest.param(("--csv", "no/such/x.csv"), 2, "there is no folder no/such", id="nowhere to write bins"),
        pytest.param(("--report", "."), 2, "cannot write .: that is a folder", id="a folder for a page"),
        pytest.param(("--column", "token"), 1, "there are tokens, requests", id="column"),
        pytest.param(("--score-from", "2027-01-01"), 1, "nothing to score", id="after the trace"),
    ],
)
def test_simulate_refuses(headstart: Headstart, wave: Path, arguments: tuple[str, ...], code: int, hint: str) -> None:
    ran = headstart("simulate", "--trace", wave, *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert hint in ran.err


def test_traffic_comes_from_somewhere(headstart: Headstart) -> None:
    assert "either --trace FILE or --from-prometheus URL" in headstart("simulate").err
    assert "--workload NAMESPACE/NAME" in headstart("simulate", "--from-prometheus", "http://127.0.0.1:1").err


# ── The reference figures ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "window", "missed_ratio", "gpu_ratio"),
    [
        pytest.param("nasa_1995_july", ("1995-07-24", "1995-07-28"), 0.0439, 1.85, id="nasa"),
        pytest.param("worldcup98_june", ("1998-06-22", "1998-06-26"), 0.0, 1.40, id="worldcup"),
        pytest.param("burstgpt_week1_tokens", ("2000-01-07", "2000-01-10"), 0.0772, 2.27, id="burstgpt"),
        pytest.param("servegen_mlarge_1min_disagg", ("2025-03-13", "2025-03-17"), 0.0051, 1.49, id="servegen"),
        pytest.param("crane_input9", ("2021-10-19", "2021-10-23"), 0.0033, 1.43, id="crane 9"),
    ],
)
def test_the_reference_on_real_traffic(
    headstart: Headstart, name: str, window: tuple[str, str], missed_ratio: float, gpu_ratio: float
) -> None:
    """Whoever compares with the published table compares like with like."""
    path = TRACES / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"the evaluation traces are not here ({path.name} is read from ../shared/traces)")
    column = ("--column", "total_tokens") if name.startswith("burstgpt") else ()
    ran = headstart(
        *("simulate", "--trace", path, *column, "--policies", "hpa-plain:0.7,oracle-instant,static-peak", "-o", "json"),
        *("--cold-start", "3m", "--score-from", window[0], "--score-to", window[1]),
    )
    plain, instant, peak = ran.document["policies"]
    assert plain["under_provisioned_ratio"] == pytest.approx(missed_ratio, abs=0.0005)
    assert plain["gpu_ratio"] == pytest.approx(gpu_ratio, abs=0.006)
    assert (instant["gpu_ratio"], instant["under_provisioned_ratio"]) == (1.0, 0.0)
    days = (datetime.fromisoformat(window[1]) - datetime.fromisoformat(window[0])).days
    assert peak["gpu_hours"] == 16 * 24 * days


# ── backtest ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_backtest_answers_one_document(headstart: Headstart, wave: Path) -> None:
    ran = headstart(
        "backtest", "--trace", wave, "-o", "json", "--score-from", "2026-03-04", "--score-to", "2026-03-04T12:00"
    )
    document = ran.document
    assert (document["apiVersion"], document["kind"], document["trace"]) == ("headstart/v1", "Backtest", str(wave))
    results = document["results"]
    assert [each["model"] for each in results] == ["headstart"] * 3 + ["last-value"] * 3 + ["seasonal-naive"] * 3
    assert [each["horizon_s"] for each in results[:3]] == [600.0, 1200.0, 1800.0], "5, 15, 30 min in whole bins of ten"
    for each in results:
        assert set(each) == {
            *("model", "horizon_s", "wape", "mase", "pinball", "coverage"),
            *("decision_gpu_ratio", "fit_s", "predict_ms", "n"),
        }
        assert set(each["pinball"]) == {"0.5", "0.9", "0.95"}
        assert set(each["coverage"]) == {"0.9", "0.95"}
    assert results[3]["n"] == 71, "origins whose target lies before the end, which is exclusive"
    assert results[3]["wape"] < results[5]["wape"], "last value gets worse with distance"
    assert 1.0 <= results[3]["decision_gpu_ratio"] < results[5]["decision_gpu_ratio"], "and decisions on it dearer"


def test_backtest_scores_the_models_that_are_named(headstart: Headstart, wave: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.csv.gz"
    twin.write_bytes(wave.read_bytes())
    ran = headstart(
        *(
            "backtest",
            "--trace",
            wave,
            twin,
            "--models",
            "seasonal-delta,last-value",
            "--horizons",
            "30m",
            "-o",
            "json",
        ),
        *("--score-from", "2026-03-04", "--score-to", "2026-03-04T06:00"),
    )
    documents = [json.loads(line) for line in ran.out.splitlines()]
    assert [each["trace"] for each in documents] == [str(wave), str(twin)], "one a line"
    for document in documents:
        assert [(each["model"], each["horizon_s"]) for each in document["results"]] == [
            ("seasonal-delta", 1800.0),
            ("last-value", 1800.0),
        ]
    table = headstart(
        *("backtest", "--trace", wave, "--models", "last-value", "--horizons", "30m"),
        *("--score-from", "2026-03-04", "--score-to", "2026-03-04T06:00"),
    )
    assert "30 min" in table.out
    for figure in ("wape", "decision_gpu_ratio"):
        assert f"{documents[0]['results'][1][figure]:.3f}" in table.out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        pytest.param(("--models", "last-valu"), "Did you mean 'last-value'? There are headstart, ", id="model"),
        pytest.param(("--horizons", "0m"), "above 0", id="horizon"),
        pytest.param(("--horizons", "5"), "180s, 3m or 1h30m", id="no unit"),
    ],
)
def test_backtest_refuses(headstart: Headstart, wave: Path, arguments: tuple[str, ...], hint: str) -> None:
    ran = headstart("backtest", "--trace", wave, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert hint in ran.err
