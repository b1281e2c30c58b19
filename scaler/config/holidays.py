"""The public holidays of a country or a part of it, by the name that a settings file gives: `DE`, `DE-BY`, `US-CA`.

Decides what such a name means. The dates are data that come with the product (`data/holidays`, made from the
`holidays` library); nothing is computed and nothing is fetched, and only the countries that are named are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from scaler.config.check import did_you_mean, shown


def shipped_calendars() -> tuple[str, ...]:
    """The countries there are, by their ISO 3166 codes (and a few more that have days of their own)."""
    return tuple(sorted(each.stem for each in _folder().glob("*.json")))


@cache
def holidays_of(name: str) -> frozenset[date]:
    """The dates of a calendar. Raises `ValueError` for a name that means none."""
    country, _, part = name.partition("-")
    if country not in shipped_calendars():
        hint = did_you_mean(country, shipped_calendars()) or "use a country's ISO code, such as DE, or DE-BY for a part"
        raise ValueError(f"holidays names {shown(name)}, of which no calendar is shipped; {hint}")
    calendar: Mapping[str, Any] = json.loads((_folder() / f"{country}.json").read_text(encoding="utf-8"))
    dates = set(calendar["dates"])
    if "-" in name:
        parts = calendar["parts"]
        if part not in parts:
            there = f"there are {', '.join(sorted(parts))}" if parts else "it has none"
            raise ValueError(f"holidays names {shown(name)}, but {country} has no part {shown(part)}; {there}")
        dates = (dates | set(parts[part]["also"])) - set(parts[part]["not"])
    return frozenset(map(date.fromisoformat, dates))


def _folder() -> Path:
    """`scaler/data/holidays` in an installed package, `data/holidays` beside the packages in a working tree."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "data"
    return (installed if installed.is_dir() else package.parent / "data") / "holidays"
