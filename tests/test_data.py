"""What `data/` ships is what the code makes: the sample trace and the schema of the settings file.

To write both again: `python tests/test_data.py`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from forecaster.synthetic import ARCHETYPES, generate
from forecaster.train import read_panel
from scaler.config.schema import json_schema

DATA = Path(__file__).resolve().parents[1] / "data"
SAMPLE = DATA / "samples" / "consumer-week.csv.gz"
SCHEMA = DATA / "headstart.schema.json"
START = datetime(2026, 3, 2, tzinfo=UTC)
ARCHETYPE = next(name for name in ARCHETYPES if "consumer" in name)


def sample() -> bytes:
    """Seven seeded days of an evening-and-weekend service, in the trace format of the command line."""
    series = generate(ARCHETYPES[ARCHETYPE], start=START, days=7, seed=7).series
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("timestamp", "requests"))
    for minute, rps in enumerate(series.values):
        if np.isfinite(rps):
            rows.writerow(((START + minute * series.step).strftime("%Y-%m-%d %H:%M:%S"), round(float(rps) * 60)))
    return gzip.compress(text.getvalue().encode(), mtime=0)


def schema() -> str:
    """The JSON schema for editors."""
    return json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_sample_is_what_the_generator_makes() -> None:
    assert gzip.decompress(SAMPLE.read_bytes()) == gzip.decompress(sample())
    panel = read_panel(SAMPLE)
    assert panel.values.shape[0] == 1
    assert np.nanmean(panel.values) == pytest.approx(
        np.nanmean(generate(ARCHETYPES[ARCHETYPE], start=START, days=7, seed=7).series.values), rel=0.01
    )


def test_the_schema_is_up_to_date() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema()


if __name__ == "__main__":
    SAMPLE.write_bytes(sample())
    SCHEMA.write_text(schema(), encoding="utf-8")
