"""The members that a refit would have left at a moment of the past: training for the lab, on what was known then.

The daemon's nightly job and this are one function (`train.train`): the last day before the moment is the examination,
the fits see what lies before it, and only what passes is among the members; all others are the shipped ones. Decides
which families can be fitted with what is installed here. Never shows a fit anything from the moment on, keeps nothing
on disk, and never runs in the daemon's process (the fits load statsmodels and LightGBM).
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from forecaster import registry
from forecaster.errors import ForecasterError
from forecaster.preprocess import DAY, bins_in, tail, up_to
from forecaster.registry import Members
from forecaster.train import train
from forecaster.types import Panel

SPAN = 14 * DAY
"""History that a fit is shown; more buys nothing (the daemon's job keeps to the same)."""

NEEDS: Mapping[str, tuple[str, ...]] = {"holt-winters": (), "arima": ("statsmodels",), "trees": ("lightgbm",)}
"""What is fitted again, and the packages it takes. The network is not: the shipped one has seen enough synthetic
traffic, and a training takes minutes where the others take seconds."""


def can_be_fitted(models: Sequence[str] = tuple(NEEDS)) -> tuple[str, ...]:
    """Those of `models` whose packages are installed here, found without loading one of them."""
    return tuple(
        model for model in models if all(importlib.util.find_spec(each) is not None for each in NEEDS.get(model, ()))
    )


def fitted_members(
    panel: Panel, *, until: datetime, seed: int, models: Sequence[str] | None = None, span: timedelta = SPAN
) -> Members:
    """Everything that could forecast at `until`, fitted on the last `span` of what `panel` had shown by then.

    The same data and seed give the same members, ids included. `models` are those to fit, all that can be here unless
    given. `refused` says of each family that was not taken up why; with no more than two days of history nothing is
    fitted and the shipped members answer.
    """
    known = tail(up_to(panel, until), bins_in(span, panel.step))
    wanted = can_be_fitted() if models is None else tuple(models)
    try:
        with tempfile.TemporaryDirectory(prefix="headstart-refit-") as folder:
            outcomes = train(known, out=Path(folder), seed=seed, models=wanted)
            found = registry.members(Path(folder), step=panel.step)
    except ForecasterError as error:
        shipped = registry.members(step=panel.step)
        return Members(
            forecasters=shipped.forecasters, refused={**shipped.refused, **dict.fromkeys(wanted, str(error))}
        )
    why = {each.model: each.failed.get("*", each.verdict) for each in outcomes if not each.promoted}
    return Members(forecasters=found.forecasters, refused={**found.refused, **why})
