"""`headstart` with one place at which the process kills itself, as `kill -9` would there. Holds no test.

    python tests/failpoints.py after_journal:3 run --config headstart.yaml

dies at the third time that a tick's records are on the disk. The product knows nothing of it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from scaler.adapters import journal, store, targets

MARK = "failpoint reached"


def dies(times: int) -> Callable[[], None]:
    """What to call at a point: the process is gone at the `times`-th call."""
    left = [times]

    def reached() -> None:
        left[0] -= 1
        if left[0] == 0:
            sys.stderr.write(f"{MARK}\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def _around(owner: Any, name: str, *, before: Callable[[], None] | None, after: Callable[[], None] | None) -> None:
    inner = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        result = inner(*args, **kwargs)
        if after is not None:
            after()
        return result

    setattr(owner, name, wrapped)


def before_journal(reached: Callable[[], None]) -> None:
    """Decided, and nothing on record."""
    _around(journal.SqliteJournal, "append", before=reached, after=None)


def in_journal(reached: Callable[[], None]) -> None:
    """Every row written, and not committed."""
    _around(journal.Writer, "write", before=None, after=reached)


def after_journal(reached: Callable[[], None]) -> None:
    """On record, and not sent."""
    _around(journal.SqliteJournal, "append", before=None, after=reached)


def after_patch(reached: Callable[[], None]) -> None:
    """Sent and carried out, and what became of it not on record."""
    _around(targets.KubernetesTargets, "scale", before=None, after=reached)


def after_outcomes(reached: Callable[[], None]) -> None:
    """All of a tick's records there, and nobody told."""
    _around(journal.SqliteJournal, "record_outcomes", before=None, after=reached)


def in_save(reached: Callable[[], None]) -> None:
    """What the models have learnt is being saved: written, and not committed."""
    begin = store.transaction

    def transaction(*args: Any) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def dying() -> Any:
            with begin(*args) as db:
                yield db
                reached()

        return dying()

    store.transaction = transaction  # type: ignore[attr-defined]


def in_rename(reached: Callable[[], None]) -> None:
    """Between two renames, such as those of a damaged file and its companions."""
    from pathlib import Path

    _around(Path, "rename", before=None, after=reached)
    _around(os, "replace", before=reached, after=None)


POINTS = (before_journal, in_journal, after_journal, after_patch, after_outcomes, in_save, in_rename)


def main() -> None:
    """Arm the point, then be `headstart`."""
    point, _, times = sys.argv[1].partition(":")
    next(each for each in POINTS if each.__name__ == point)(dies(int(times or 1)))
    sys.argv = ["headstart", *sys.argv[2:]]
    from scaler.cli import main as headstart

    headstart()


if __name__ == "__main__":
    main()
