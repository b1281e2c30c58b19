"""How one check came out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How a check came out; `SKIPPED` could not be looked at, and `found` says why."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIPPED = "skipped"


FLEET = "-"
"""Stands for the workload where a check concerns all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, what was found, and what to do about it (nothing, if it is well)."""

    workload: str
    check: str
    health: Health
    found: str
    fix: str = ""


def well(check: str, found: str, workload: str = FLEET) -> Finding:
    """Nothing to do."""
    return Finding(workload=workload, check=check, health=Health.OK, found=found)


def skipped(check: str, why: str, workload: str = FLEET) -> Finding:
    """Not looked at."""
    return Finding(workload=workload, check=check, health=Health.SKIPPED, found=why)
