"""People's orders as the daemon hears them: read by the tick, every change and every trouble told once in the log.

It never orders anything itself, and a file that cannot be read never lets it write more than before.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from scaler.adapters.control_file import ControlFile, ControlReader, changes_of
from scaler.adapters.ledger import StoreJournal
from scaler.policy.types import Control


def orders_of(file: ControlFile, journal: StoreJournal, log: Any) -> ControlReader:
    """The loop's `Controls` over the file; a start on which it cannot be read goes on with what the journal knows."""

    def last() -> Mapping[str, Control]:
        try:
            return journal.controls(now=datetime.now(UTC))
        except OSError as error:
            log.warning("orders_not_restored", error=str(error), meanwhile="nothing is written")
            return {}

    def trouble(text: str) -> None:
        if text:
            meanwhile = "the orders read last stay in force; where there are none, nothing is written"
            log.error("control_unreadable", detail=text, meanwhile=meanwhile)
        else:
            log.info("control_readable")

    return ControlReader(
        file,
        last=last,
        on_change=lambda before, after: log.info("control", **changes_of(before, after)),
        on_trouble=trouble,
    )
