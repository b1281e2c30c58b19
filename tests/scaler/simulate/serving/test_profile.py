"""Profiles that a request-level simulation can play: what a file may say, and that the shipped one keeps its word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scaler.config import read_profile
from scaler.errors import ConfigError
from scaler.policy.capacity import RequestTokens, StartPhases
from scaler.service.model import max_rate_rps

PROFILES = Path(__file__).resolve().parents[4] / "data" / "profiles"
H100 = PROFILES / "llama-3.1-8b-h100.yaml"


def test_the_stated_rates_are_the_closed_forms() -> None:
    profile = read_profile(H100)
    assert profile.service is not None
    for each in profile.classes:
        assert each.tokens is not None
        assert each.slo is not None
        rate = max_rate_rps(profile.service, each.tokens.shape, each.slo)
        assert each.max_rps == pytest.approx(rate, rel=0.02), each.name


def test_profiles_without_a_service_still_load() -> None:
    profile = read_profile(PROFILES / "qwen3-vl-2b-24gb.yaml")
    assert (profile.service, profile.start) == (None, None)
    assert {each.tokens for each in profile.classes} == {None}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param(
            "alpha_s: 0.00676", "alpha_s: 0", "service.alpha_s: must be a finite number above 0", id="no time"
        ),
        pytest.param("jitter_cv: 0.1", "jitter_cv: -0.1", "start.jitter_cv: must be", id="negative jitter"),
        pytest.param("weights_s: 40", "weight_s: 40", "did you mean weights_s?", id="misspelt"),
        pytest.param("share: 8819", "share: 0", "classes[1].tokens.share: must be", id="no share"),
        pytest.param("ttft_s: 3.0", "ttft_s: 0", "slo.ttft_s: must be above 0", id="no target"),
    ],
)
def test_what_is_wrong_in_a_profile_is_said(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = H100.read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "profile.yaml"
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_profile(file)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param({"input_tokens": 0.0, "output_tokens": 5.0}, id="no prompt"),
        pytest.param({"input_tokens": 10.0, "output_tokens": 0.5}, id="no output"),
        pytest.param({"input_tokens": 10.0, "output_tokens": 5.0, "image_tokens": 11.0}, id="more image than prompt"),
        pytest.param({"input_tokens": 10.0, "output_tokens": 5.0, "input_cv": float("nan")}, id="no spread"),
    ],
)
def test_tokens_that_cannot_be_are_refused(tokens: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RequestTokens(**tokens)


def test_phases_add_up() -> None:
    assert StartPhases(node_s=5.0, image_s=15.0, weights_s=40.0, warmup_s=60.0).total_s == 120.0


def test_the_decision_still_loads_no_numpy() -> None:
    code = "import sys, scaler.policy.decide; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
