"""The published tables: nothing is left out, losses are told, and a second run changes nothing.

The figures themselves are worked out by `make tables` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import published
from scaler.simulate.trace import known_policies


def score(missed: float, ratio: float, starts: int = 10) -> dict[str, float]:
    return {"missed": missed, "ratio": ratio, "starts": starts}


def results(**changed: dict[str, float]) -> dict[published.Job, Any]:
    """A result for every job: Headstart 1 % at 1.5, everybody else 2 % at 2, but for what is `changed`."""
    found: dict[published.Job, Any] = {}
    for job in published.jobs():
        if job.cold_start_min is None:
            figures = {"horizon_s": 300.0, "wape": 0.1, "coverage": 0.95, "pinball": 2.0}
            found[job] = {model: [figures] * 3 for model in published.MODELS}
        else:
            usual = {name: score(0.01, 1.5) if name == "headstart" else score(0.02, 2.0) for name in job.policies}
            found[job] = {name: changed.get(name, each) for name, each in usual.items()}
    return found


def test_every_policy_of_the_catalogue_is_in_the_tables():
    catalogue = {name.removesuffix(":u") for name in known_policies(())}
    assert catalogue == set(published._others()) | {"headstart"}


def test_the_page_has_a_place_for_every_table_and_names_every_trace():
    page = published.PAGE.read_text(encoding="utf-8")
    again, _ = published.placed(page, published.tables(results()))
    assert again.count("<!-- table:") == page.count("<!-- table:") == 6
    for trace in published.TRACES:
        assert trace.name.split("_")[0] in page


def test_the_readme_has_a_place_for_the_summary():
    page, _ = published.placed(published.README.read_text(encoding="utf-8"), published.summary(results()))
    rows = published.parsed(page[page.index("<!-- table: summary -->") :])[: 1 + len(published.TRACES)]
    assert rows[1][1:4] == ["1.00 @ 1.50", "2.00 @ 2.00", "–"], "no HPA that was tuned misses at most 1 %"


def test_a_second_run_changes_nothing_and_a_new_figure_is_told():
    page = published.PAGE.read_text(encoding="utf-8")
    first, _ = published.placed(page, published.tables(results()))
    again, changes = published.placed(first, published.tables(results()))
    assert (again, changes) == (first, [])
    _, changes = published.placed(first, published.tables(results(kpa=score(0.5, 1.1))))
    assert len(changes) == len(published.TRACES) * len(published.COLD_STARTS_MIN)
    assert changes[0] == "decisions-3, kpa, nasa 1995 july: 2.00 @ 2.00 (10) → 50.00 @ 1.10 (10)"


@pytest.mark.parametrize(
    ("rival", "told"),
    [
        pytest.param(score(0.01, 1.4), True, id="as many misses for less"),
        pytest.param(score(0.005, 1.5), True, id="fewer misses for as much"),
        pytest.param(score(0.01, 1.5), False, id="the same"),
        pytest.param(score(0.0, 1.6), False, id="fewer misses for more"),
        pytest.param(score(0.02, 1.1), False, id="more misses for less"),
    ],
)
def test_who_beats_the_product_on_both_axes_is_named(rival: dict[str, float], told: bool):
    here = {"headstart": score(0.01, 1.5), "dynamo": rival, "oracle": score(0.0, 1.0)}
    assert published.better_than_product(here) == (["dynamo"] if told else [])


def test_a_target_that_is_not_kept_is_bold():
    kept = published.tables(results())["standing"]
    missed = published.tables(results(headstart=score(0.0121, 1.5)))["standing"]
    assert kept[1][2] == "1.00"
    assert missed[1][2] == "**1.21**"


def test_a_rival_is_tuned_for_the_bar_it_has_to_reach():
    here = {"hpa:0.5": score(0.0, 2.0), "hpa:0.6": score(0.008, 1.7), "hpa:0.7": score(0.03, 1.4), "hpa": score(0, 1)}

    def best(at_most: float) -> str | None:
        return published.tuned(here, lambda name: ":" in name, at_most=at_most)

    assert [best(0.05), best(0.01), best(0.005), best(-1.0)] == ["hpa:0.7", "hpa:0.6", "hpa:0.5", None]


def test_what_was_tuned_in_hindsight_has_rows_of_its_own():
    made = published.tables(results(**{"hpa:0.5:300s": score(0.008, 1.8), "hpa:0.4:60s": score(0.009, 1.6)}))
    rows = {row[0]: row[1] for row in made["decisions-3"]}
    assert rows["hpa, utilisation tuned to 1 %"] == "0.80 @ 1.80 (10) hpa:0.5:300s"
    assert rows["hpa, utilisation and window tuned to 1 %"] == "0.90 @ 1.60 (10) hpa:0.4:60s"
    assert made["standing"][1][4:6] == ["-6.2 %", "-6.2 %"]
    nobody = published.tables(results())
    assert nobody["standing"][1][4:6] == ["none misses as little"] * 2


def test_results_are_kept_until_the_trace_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(published, "CACHE", tmp_path / "kept")
    job = published.jobs()[0]
    trace = tmp_path / f"{job.trace.name}.csv.gz"
    trace.write_bytes(b"one")
    kept = published.Kept(tmp_path)
    assert kept.find(job) is None
    kept.keep(job, {"headstart": 1.5})
    assert published.Kept(tmp_path).find(job) == {"headstart": 1.5}
    trace.write_bytes(b"two")
    assert published.Kept(tmp_path).find(job) is None


def test_without_its_traces_the_page_stays_and_they_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.md"
    page.write_text("as it was", encoding="utf-8")
    assert published.main([str(tmp_path), "--page", str(page)]) == 2
    assert "nasa_1995_july" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "as it was"
