"""The parts of a training: how it is cut, what a part's result depends on, and the artefact that they make.

Properties: every series is in exactly one part of a family; the artefact does not depend on the order of the parts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.fits import MODELS, NEEDS, POOLED, SERIES_PER_PART, Device, fit_part, merged, parts_of
from forecaster.models.stored import KINDS
from forecaster.types import Panel
from training_cases import a_panel


def cut(model: str, panel: Panel, *, seed: int = 1, steps: int | None = None):  # type: ignore[no-untyped-def]
    return parts_of(model, panel, seed=seed, steps=steps, device=Device.CPU)


def test_every_family_that_is_trained_can_be_stored_and_says_what_it_needs() -> None:
    assert set(MODELS) <= set(KINDS)
    assert set(MODELS) == set(NEEDS)
    assert set(MODELS) >= POOLED


@given(series=st.integers(min_value=1, max_value=60), model=st.sampled_from(MODELS))
def test_every_series_is_in_exactly_one_part(series: int, model: str) -> None:
    panel = a_panel(series, days=0.1)
    found = cut(model, panel)
    assert [key for part in found for key in part.panel.keys] == list(panel.keys)
    assert np.array_equal(np.vstack([part.panel.values for part in found]), panel.values)
    assert len(found) == (1 if model in POOLED else -(-series // SERIES_PER_PART))
    assert len({part.digest for part in found}) == len(found)


def test_a_digest_names_all_that_the_result_depends_on() -> None:
    panel = a_panel(2)
    other = replace(panel, values=panel.values.copy())
    other.values[1, 7] += 1e-12
    gap = replace(panel, values=panel.values.copy())
    gap.values[0, 0] = np.nan
    variants = [
        cut("arima", panel),
        cut("holt-winters", panel),
        cut("arima", panel, seed=2),
        cut("arima", panel, steps=9),
        cut("arima", other),
        cut("arima", gap),
        cut("arima", replace(panel, start=panel.start + panel.step)),
        cut("arima", replace(panel, keys=panel.keys[::-1])),
    ]
    assert len({parts[0].digest for parts in variants}) == len(variants)
    assert cut("arima", a_panel(2))[0].digest == variants[0][0].digest


FITTED = [fit_part(part) for part in cut("holt-winters", a_panel(20))]


@given(order=st.permutations(FITTED))
def test_the_artefact_does_not_depend_on_the_order_of_its_parts(order) -> None:  # type: ignore[no-untyped-def]
    assert merged("holt-winters", order) == merged("holt-winters", FITTED)


def test_the_artefact_holds_every_series() -> None:
    data = merged("holt-winters", FITTED)
    assert data is not None
    assert set(KINDS["holt-winters"].build(data, "x").fitted) == set(a_panel(20).keys)  # type: ignore[attr-defined]
    assert merged("holt-winters", [replace(FITTED[0], data=None)]) is None


@pytest.mark.parametrize("model", ["holt-winters", "arima", "trees", "lstm"])
def test_a_machine_with_other_versions_is_told_apart(model: str) -> None:
    (part,) = cut(model, a_panel(1))
    one = fit_part(replace(part, revision="forecaster 0, numpy 1.0"))
    assert one.data is None
    assert all("install the same everywhere" in reason for reason in one.failed.values())
    assert list(one.failed) == (["*"] if model in POOLED else ["llm/w000/default"])


def test_a_gpu_sums_as_a_cpu_does() -> None:
    """Up to rounding; on a GPU the sum that repeats is used."""
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from forecaster.fitting.neural.lstm import repeatable_sums, running_sums

    rises = torch.rand(5, 13, 3, generator=torch.Generator().manual_seed(1))
    assert repeatable_sums(rises).numpy() == pytest.approx(running_sums(rises).numpy(), rel=1e-6)


def test_a_fault_in_a_fit_is_told_and_not_thrown() -> None:
    (part,) = cut("holt-winters", a_panel(1))
    one = fit_part(replace(part, model="no-such-family"))
    assert one.failed == {"llm/w000/default": "KeyError: 'no-such-family'"}
