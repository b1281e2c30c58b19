"""What a person typed about a trace, turned into values, or into a usage error that names the option.

Nothing is read here but the text itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import typer

ENGINE = "headstart"
"""What the product, and the calibrated selection of all its models, is called."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Refit(StrEnum):
    """When the models are fitted on the traffic itself."""

    NEVER = "never"
    ONCE = "once"
    DAILY = "daily"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A trace, its column and the part that is scored, as typed."""

    column: str | None
    score_from: str | None
    score_to: str | None


def duration(text: str, option: str) -> timedelta:
    """A span such as 180s, 3m or 1h30m; a usage error naming `option` otherwise."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"a duration is written like 180s, 3m or 1h30m, got {text!r}", param_hint=option)
    try:
        return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long", param_hint=option) from None


def duration_or_off(text: str, option: str) -> timedelta | None:
    """A span as `duration` reads it and above 0, or None for "off"."""
    if text == "off":
        return None
    span = duration(text, option)
    if not span:
        raise typer.BadParameter("must be above 0, or off", param_hint=option)
    return span


def ends_of(span: Span) -> tuple[datetime | None, datetime | None]:
    ends = (moment(span.score_from, "--score-from"), moment(span.score_to, "--score-to"))
    if ends[0] is not None and ends[1] is not None and ends[1] <= ends[0]:
        raise typer.BadParameter(f"must come after --score-from {span.score_from}", param_hint="--score-to")
    return ends


def moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"a moment is written like 2026-11-20 or 2026-11-20T18:00:00Z, got {text!r}", param_hint=option
        ) from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def listed(text: str, option: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise typer.BadParameter("needs at least one name", param_hint=option)
    return names


def without_nan(document: dict[str, Any]) -> dict[str, Any]:
    """The document with null where JSON has no number."""
    from scaler.adapters.documents import finite

    plain: dict[str, Any] = finite(document)
    return plain
