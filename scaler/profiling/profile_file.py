"""The profile as the file that settings and simulations read, with where its figures come from in words.

It decides no figure; those come from `derive`.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from scaler.policy.capacity import CapacityProfile, ClassCapacity, RequestTokens, StartPhases
from scaler.profiling.derive import GOOD_CHECK_RATIO, ClassLimit, Derived, slo_text

HEADER = """\
# What one replica serves, by request class, as `headstart profile` measured it. Fitted times are in `service`, each
# class's limit in `max_rps`; how both were found stands in `source`. See docs/profiling.md.
"""
DIGITS = 4
"""Significant digits of a figure: no sweep knows more."""


def profile_of(derived: Derived) -> CapacityProfile:
    """The profile that follows from a sweep."""
    slo = derived.asked.slo
    return CapacityProfile(
        name=derived.asked.name,
        gpus=derived.asked.gpus,
        source=_source(derived),
        service=derived.service,
        start=StartPhases(warmup_s=derived.asked.start_s),
        classes=tuple(
            ClassCapacity(
                name=each.name,
                max_rps=each.max_rps,
                p95_s=each.p95_s,
                description=_described(derived, each),
                tokens=RequestTokens(
                    input_tokens=each.shape.input_tokens,
                    output_tokens=each.shape.output_tokens,
                    image_tokens=each.shape.image_tokens,
                    share=derived.sweep.shares[each.name],
                ),
                slo=slo,
            )
            for each in derived.limits
        ),
    )


def text_of(profile: CapacityProfile) -> str:
    """The profile as YAML; what is as it would be anyhow is left out."""
    document = {"apiVersion": "headstart/v1", "kind": "CapacityProfile", **_plain(profile)}
    body: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=118)
    return HEADER + body


def write_profile(path: Path, profile: CapacityProfile) -> None:
    """The file at `path`, whole or as it was before. Raises `OSError`."""
    draft, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(draft, "w", encoding="utf-8") as stream:
            stream.write(text_of(profile))
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    """A dataclass as a mapping without its defaults, figures to four digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    return {
        each.name: _plain(found)
        for each in fields(value)
        if (found := getattr(value, each.name)) != each.default and found is not None
    }


def _source(derived: Derived) -> str:
    sweep, found = derived.sweep, derived.fit
    good = sum(abs(each.worst[1]) <= GOOD_CHECK_RATIO for each in derived.checks)
    told = (
        "all times are identified"
        if found.identified
        else "beta and gamma are not: only alpha + b·n of each class is known, and per_sequence_s is the mean b"
    )
    return (
        f"Measured by headstart profile on {sweep.started_at[:10]}: {sweep.model}, open loop, {len(sweep.levels)} "
        f"levels, {found.requests} requests, {found.rejected} outliers. Of the fit {told}, residual "
        f"{100 * found.residual_ratio:.1f} %; {good} of {len(derived.checks)} left-out levels are predicted within "
        f"{100 * GOOD_CHECK_RATIO:g} % in all figures. max_rps is the lower of what was measured and what the fitted "
        f"replica keeps, with 95 % of the requests within the SLO ({slo_text(derived.asked.slo)}). The start is what "
        f"was said, not measured."
    )


def _described(derived: Derived, limit: ClassLimit) -> str:
    size = derived.sweep.image_sizes.get(limit.name)
    image = f", {limit.shape.image_tokens:.0f} of them a picture of {size[0]}×{size[1]}" if size else ""
    over = "none missed" if limit.missed_rps is None else f"{limit.missed_rps:.3g} missed"
    return (
        f"{limit.shape.input_tokens:.0f} tokens in{image}, {limit.shape.output_tokens:.0f} out; {limit.kept_rps:.3g} "
        f"requests/s kept, {over}, modelled {limit.modelled_rps:.3g}"
    )
