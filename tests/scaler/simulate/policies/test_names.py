"""What may follow a policy's name, and the names that a sweep tries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from scaler.simulate.policies import KNOBS, PLANNERS, RULES, Past, planner, rule
from scaler.simulate.policies.names import Accepts, Options, parsed

FAMILIES = {"hpa": Accepts(window=True), "kpa": Accepts(), "llmd": Accepts(variants=("mean",))}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("hpa", Options(), id="nothing said"),
        pytest.param("hpa:0.6", Options(utilisation=0.6), id="a utilisation"),
        pytest.param("hpa:0.6:120s", Options(utilisation=0.6, window_s=120.0), id="and a window in seconds"),
        pytest.param("hpa:1:2m", Options(utilisation=1.0, window_s=120.0), id="in minutes"),
        pytest.param("hpa:1:1h", Options(utilisation=1.0, window_s=3600.0), id="the longest there is"),
        pytest.param("hpa:1:0s", Options(utilisation=1.0, window_s=0.0), id="none at all"),
        pytest.param("llmd:mean", Options(variant="mean"), id="a variant"),
        pytest.param("llmd:mean:0.7", Options(variant="mean", utilisation=0.7), id="a variant with a number"),
    ],
)
def test_options(name: str, options: Options) -> None:
    assert parsed(name, FAMILIES, "policy") == (name.partition(":")[0], options)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("hpaa:0.6", "there are hpa, kpa, llmd", id="no such family"),
        pytest.param("hpa:", "hpa:0.7, then perhaps a window, such as hpa:0.7:120s", id="nothing after the colon"),
        pytest.param("hpa:120s", "number after the colon", id="a window needs its utilisation"),
        pytest.param("hpa:0.6:0.7", "not '0.7'", id="two numbers"),
        pytest.param("hpa:0.6:60s:60s", "not '60s'", id="two windows"),
        pytest.param("hpa:0.6:61m", "at most 3600s", id="longer than Kubernetes allows"),
        pytest.param("kpa:0.6:60s", "not '60s'", id="no window here"),
        pytest.param("kpa:mean", "not 'mean'", id="no variant here"),
        pytest.param("llmd:0.7:mean", "llmd:mean, or a number", id="the variant comes first"),
        pytest.param("llmd:nan", r"\(0, 1\]", id="no number"),
    ],
)
def test_nonsense_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parsed(name, FAMILIES, "policy")


def test_every_family_has_a_knob_whose_names_all_exist_and_differ() -> None:
    past = Past(loads=np.ones(60), start=datetime(2026, 3, 2, tzinfo=UTC), step=timedelta(minutes=1))
    assert set(KNOBS) == {*RULES, *PLANNERS}
    for family, names in KNOBS.items():
        assert {each.partition(":")[0] for each in names} == {family}
        made = [rule(each) if family in RULES else planner(each, past) for each in names]
        assert len(set(map(repr, made))) == len(names) >= 8


def test_knobs_go_from_frugal_to_generous() -> None:
    for names in KNOBS.values():
        numbers = [float(each.split(":")[1]) for each in names]
        assert numbers == sorted(numbers, reverse=True), "less load a replica"
