"""What the simulator's HTML pages share: how a template is filled, and how arrays and decisions travel inside one.

It turns numbers into the shape that the pages' scripts read and judges none of them. A page is one file that asks
nobody for anything, so arrays travel as base64 of small integers: a week of minutes is 10 kB a policy.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from scaler.policy.types import Decision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

_TEMPLATES = Path(__file__).parent / "templates"
UNKNOWN = 65_535
"""The 16-bit code of a value that is not known."""


def fill(template: str, **values: Any) -> str:
    """The page of that template, escaped throughout."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(("html", "html.j2"), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure, percent=percent)
    return environment.get_template(template).render(**values)


def figure(value: float | None, digits: int = 0) -> str:
    """ "1,234.5", with a real minus; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(ratio: float | None, digits: int = 2) -> str:
    """0.0125 is "1.25 %"."""
    return "–" if ratio is None or not math.isfinite(ratio) else f"{figure(100.0 * ratio, digits)}\u00a0%"


def packed(values: FloatArray | NDArray[Any]) -> dict[str, Any]:
    """Numbers ≥ 0 as base64: whole small ones as bytes, whole ones as they are, others as 16-bit steps of the maximum.

    NaN is unknown and has a code of its own.
    """
    if np.issubdtype(values.dtype, np.integer) and values.size and int(values.max()) < 255:
        return {"bytes": 1, "step": 1, "data": _base64(values.astype("u1"))}
    known = np.isfinite(values)
    most = float(values[known].max(initial=0.0))
    whole = most < UNKNOWN and bool(np.all(values[known] == np.rint(values[known])))
    step = 1.0 if whole else max(most, 1e-9) / 65_000
    codes = np.full(values.shape, UNKNOWN, dtype="<u2")
    codes[known] = np.round(np.maximum(values[known], 0.0) / step)
    return {"bytes": 2, "step": step, "data": _base64(codes)}


def _base64(codes: NDArray[Any]) -> str:
    return base64.b64encode(codes.tobytes()).decode("ascii")


def stretches(flags: NDArray[np.bool_]) -> list[list[int]]:
    """Where `flags` is true, as [first, last) pairs."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [[first, last] for first, last in edges.reshape(-1, 2).tolist()]


def change(after: int, decision: Decision) -> list[Any]:
    """A decision made after a bin, whole: what it was, what was proposed, what was clamped."""
    proposals = [[each.rule, each.want, each.keep, each.reason.value, each.detail] for each in decision.proposals]
    return [after, decision.current, decision.target, decision.reason.value, proposals, clamps(decision)]


def clamps(decision: Decision) -> list[list[Any]]:
    """What moved the target after the proposals, and why."""
    return [[each.rule, each.before, each.after, each.reason.value, each.detail] for each in decision.adjustments]
