"""The calendars in `data/holidays` are what the `holidays` library says, of the release that each file names.

The library is no dependency of the product: it wants an older python-dateutil than the Kubernetes client needs. To
write the calendars again, for other years or with another release, in an environment of its own:

    pip install holidays==0.108 && python tests/test_holidays.py
"""

from __future__ import annotations

import json
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "data" / "holidays"
YEARS = range(2025, 2037)


def calendars() -> dict[str, str]:
    """Every country's file by its name: the dates of the whole country, and how each part of it differs."""
    holidays = pytest.importorskip("holidays", reason="the holidays library is not installed here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of some countries it knows fewer years, and says so each time

        def dates(country: str, part: str | None = None) -> set[str]:
            found = holidays.country_holidays(country, subdiv=part, years=YEARS)
            return {day.isoformat() for day in found if day.year in YEARS}

        written = {}
        for country, parts in sorted(holidays.list_supported_countries(include_aliases=False).items()):
            whole = dates(country)
            differing = {
                part: {"also": sorted(own - whole), "not": sorted(whole - own)}
                for part in sorted(parts)
                for own in [dates(country, part)]
            }
            facts = {"source": f"holidays {holidays.__version__}", "dates": sorted(whole), "parts": differing}
            written[f"{country}.json"] = json.dumps(facts, sort_keys=True, separators=(",", ":")) + "\n"
    return written


def stored(country: str) -> Any:
    return json.loads((FOLDER / f"{country}.json").read_text(encoding="utf-8"))


def test_they_are_what_the_library_says() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")} == calendars()


def test_every_file_holds_dates_in_order_and_says_where_they_are_from() -> None:
    files = sorted(FOLDER.glob("*.json"))
    assert len(files) > 200
    for path in files:
        calendar = stored(path.stem)
        assert calendar["source"].startswith("holidays ")
        days = [date.fromisoformat(each) for each in calendar["dates"]]
        assert days == sorted(set(days))
        for part in calendar["parts"].values():
            assert not set(part["also"]) & set(calendar["dates"])
            assert set(part["not"]) <= set(calendar["dates"])


@pytest.mark.parametrize(
    ("country", "part", "day"),
    [
        pytest.param("DE", None, "2026-10-03", id="unity"),
        pytest.param("DE", "BY", "2026-01-06", id="Epiphany in Bavaria"),
        pytest.param("US", None, "2026-11-26", id="Thanksgiving, the fourth Thursday"),
        pytest.param("CN", None, "2026-02-17", id="the lunar new year"),
        pytest.param("GB", "SCT", "2026-11-30", id="Saint Andrew in Scotland"),
    ],
)
def test_well_known_days_are_there(country: str, part: str | None, day: str) -> None:
    calendar = stored(country)
    assert day in (calendar["dates"] if part is None else calendar["parts"][part]["also"])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in calendars().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
