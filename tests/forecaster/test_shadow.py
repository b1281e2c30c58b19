"""Days in shadow: a version goes live for what it shows on days that came after it, or is set aside with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from forecaster import registry
from forecaster.models.holt_winters import Smoothing
from forecaster.models.stored import holt_winters_bytes
from forecaster.preprocess import DAY
from forecaster.shadow import review
from forecaster.stages import Stage
from forecaster.types import Panel

PanelOf = Callable[..., Panel]

MODEL = "holt-winters"
GOOD = Smoothing(level=0.02, trend=0.0, season=0.1, damping=0.9)
"""Noise around a daily wave wants a slow level."""
BAD = Smoothing(level=0.95, trend=0.3, season=0.9, damping=0.98)
"""Runs after every minute's noise."""


def stored(root: Path, panel: Panel, gains: Smoothing) -> str:
    """A version of Holt-Winters with these gains for every series."""
    span = registry.DataSpan(start=panel.start, end=panel.end - DAY, series=len(panel.keys))
    data = holt_winters_bytes(dict.fromkeys(panel.keys, gains))
    return registry.save(root, MODEL, data, span=span, seed=1, report={}).name


def in_shadow(root: Path, panel: Panel, gains: Smoothing, *, live: Smoothing, since: datetime) -> str:
    """One version live, another in shadow since then; the latter's name."""
    registry.promote(root, MODEL, stored(root, panel, live))
    version = stored(root, panel, gains)
    assert registry.admit(root, MODEL, version, reason="passed", now=since) is Stage.SHADOW
    return version


def test_the_better_one_goes_live_after_its_day(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(6)
    version = in_shadow(tmp_path, panel, GOOD, live=BAD, since=panel.end - DAY)
    (found,) = review(tmp_path, panel, models=(MODEL, "trees"), now=panel.end)
    assert (found.version, found.stage) == (version, Stage.LIVE)
    assert found.reason.startswith("1.0 days in shadow: beats every rival")
    assert registry.live_version(tmp_path, MODEL) == version
    assert registry.shadow_version(tmp_path, MODEL) is None
    assert registry.stages(tmp_path, MODEL)[version].reason == found.reason


def test_one_that_does_worse_on_the_days_since_is_set_aside(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(6)
    version = in_shadow(tmp_path, panel, BAD, live=GOOD, since=panel.end - 2 * DAY)
    live = registry.live_version(tmp_path, MODEL)
    (found,) = review(tmp_path, panel, models=(MODEL,), now=panel.end)
    assert (found.stage, registry.live_version(tmp_path, MODEL)) == (Stage.STORED, live)
    standing = registry.stages(tmp_path, MODEL)[version]
    assert (standing.stage, standing.since) == (Stage.STORED, panel.end)
    assert "2.0 days in shadow: no better than" in standing.reason
    assert review(tmp_path, panel, models=(MODEL,), now=panel.end) == ()


def test_before_a_day_is_over_it_waits(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(6)
    version = in_shadow(tmp_path, panel, GOOD, live=BAD, since=panel.end - timedelta(hours=20))
    (found,) = review(tmp_path, panel, models=(MODEL,), now=panel.end)
    assert (found.version, found.stage) == (version, Stage.SHADOW)
    assert "judged after a day" in found.reason
    assert registry.shadow_version(tmp_path, MODEL) == version


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_version_that_cannot_be_read_any_more_is_set_aside(wave_panel: PanelOf, tmp_path: Path, damage: str) -> None:
    panel = wave_panel(6)
    version = in_shadow(tmp_path, panel, GOOD, live=BAD, since=panel.end - DAY)
    live = registry.live_version(tmp_path, MODEL)
    folder = tmp_path / MODEL / version
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "coefficients.json").write_bytes(b"{")
    (found,) = review(tmp_path, panel, models=(MODEL,), now=panel.end)
    assert found.stage is Stage.STORED
    assert "cannot be read any more" in found.reason
    assert registry.shadow_version(tmp_path, MODEL) is None
    assert registry.live_version(tmp_path, MODEL) == live
