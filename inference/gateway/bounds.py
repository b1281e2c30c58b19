"""How a rule checks its own parameters. It decides no bounds: each rule states its own, beside its fields."""

from __future__ import annotations

import math


def check_bounds(rule: object, **bounds: tuple[float, float]) -> None:
    """Raise `ValueError` for the first field of `rule` that is outside its inclusive bounds or no finite number."""
    for name, (low, high) in bounds.items():
        value = getattr(rule, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name} = {value!r} is out of range; set it between {low:g} and {high:g}")
