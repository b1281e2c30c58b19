"""How a competitor is asked for by name: a family, then its options, each after a colon.

`hpa`, `hpa:0.6`, `hpa:0.6:120s`, `llmd:mean`, `dynamo:constant:0.9`. A number is the utilisation (for `llmd` the ratio
of latency and SLO above which it goes out), a span the scale-in stabilisation window, a word a variant. It knows what
may be written, not what it means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SPAN = re.compile(r"(\d+)(s|m|h)", re.ASCII)
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 3600.0
"""What Kubernetes allows a stabilisation window to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepts:
    """Which options a family takes besides a utilisation."""

    window: bool = False
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What follows a family's name; None: not said."""

    utilisation: float | None = None
    """In (0, 1]."""
    window_s: float | None = None
    """In [0, 3600] seconds."""
    variant: str | None = None


def parsed(name: str, families: Mapping[str, Accepts], kind: str) -> tuple[str, Options]:
    """Family and options of a name; `ValueError` says what there is, or what is wrong with an option."""
    family, *parts = name.split(":")
    if family not in families:
        raise ValueError(f"no {kind} {name!r}; there are {', '.join(sorted(families))}, each with :utilisation")
    accepts = families[family]
    utilisation, window_s, variant = None, None, None
    for part in parts:
        if part in accepts.variants and variant is None and utilisation is None:
            variant = part
        elif utilisation is None and window_s is None and _is_number(part):
            utilisation = _utilisation(part, name)
        elif accepts.window and utilisation is not None and window_s is None and _SPAN.fullmatch(part):
            window_s = _window_s(part, name)
        else:
            raise ValueError(f"{name!r} needs {_wanted(family, accepts)}, not {part!r}")
    return family, Options(utilisation=utilisation, window_s=window_s, variant=variant)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _utilisation(text: str, name: str) -> float:
    utilisation = float(text)
    if not 0.0 < utilisation <= 1.0:
        raise ValueError(f"the utilisation of {name!r} must lie in (0, 1]")
    return utilisation


def _window_s(text: str, name: str) -> float:
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _SPAN.findall(text))
    if seconds > _LONGEST_S:
        raise ValueError(f"the scale-in window of {name!r} must be at most {_LONGEST_S:g}s")
    return seconds


def _wanted(family: str, accepts: Accepts) -> str:
    wanted = f"a number after the colon, such as {family}:0.7"
    if accepts.window:
        wanted += f", then perhaps a window, such as {family}:0.7:120s"
    if accepts.variants:
        wanted = " or ".join(f"{family}:{each}" for each in accepts.variants) + f", or {wanted}"
    return wanted
