"""The protocol on real traffic gives the published reference figures: whoever compares with them compares like with like."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from scaler.simulate.policies import oracle, replay, rule
from scaler.simulate.scoring import capacity_for_peak, score

TRACES = Path(__file__).resolve().parents[3].parent / "shared" / "traces"


def scored_load(name: str, first: str, last: str) -> np.ndarray:
    """The scored days of a trace, in replicas of the capacity rule."""
    path = TRACES / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"the evaluation traces are not here ({path.name} is read from ../shared/traces)")
    with gzip.open(path, "rt") as file:
        rows = list(csv.reader(file))[1:]
    begin, end = (datetime.fromisoformat(each).replace(tzinfo=UTC).timestamp() for each in (first, last))
    window = np.full(int(end - begin) // 60, np.nan)
    for moment, value, *_ in rows:
        at = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
        if begin <= at < end:
            window[int(at - begin) // 60] = float(value)
    return window / capacity_for_peak(window, peak_replicas=16)


NASA = ("nasa_1995_july", "1995-07-24", "1995-07-28")
WORLDCUP = ("worldcup98_june", "1998-06-22", "1998-06-26")
CRANE = ("crane_input9", "2021-10-19", "2021-10-23")


@pytest.mark.parametrize(
    ("trace", "missed_ratio", "gpu_ratio"),
    [
        pytest.param(NASA, 0.0439, 1.85, id="nasa"),
        pytest.param(WORLDCUP, 0.0, 1.40, id="worldcup"),
        pytest.param(CRANE, 0.0033, 1.43, id="crane 9"),
    ],
)
def test_hpa_plain_at_seventy_percent(trace: tuple[str, str, str], missed_ratio: float, gpu_ratio: float) -> None:
    result = score(replay(rule("hpa-plain:0.7"), scored_load(*trace), cold_start_bins=3))
    assert result.under_provisioned_ratio == pytest.approx(missed_ratio, abs=0.0025)
    assert result.gpu_ratio == pytest.approx(gpu_ratio, abs=0.03)


@pytest.mark.parametrize(
    ("trace", "ratios"),
    [
        pytest.param(NASA, (1.28, 1.46), id="nasa"),
        pytest.param(WORLDCUP, (1.02, 1.05), id="worldcup"),
        pytest.param(CRANE, (1.01, 1.03), id="crane 9"),
    ],
)
def test_oracle_releases_what_is_not_needed_for_longer_than_a_start(
    trace: tuple[str, str, str], ratios: tuple[float, float]
) -> None:
    load = scored_load(*trace)
    for cold_start_bins, ratio in zip((3, 9), ratios, strict=True):
        result = score(oracle(load, cold_start_bins))
        assert result.missed_bins == 0
        assert result.gpu_ratio == pytest.approx(ratio, abs=0.01)
