"""Panels in files, and files that are whole or absent.

Decides how a panel is written down (an archive of plain arrays) and which files are read as one (that archive, or a
trace in CSV). It judges no value: gaps stay gaps, and nothing that is read can run.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np

from forecaster.errors import SeriesError
from forecaster.registry import DEMAND
from forecaster.trace import read_trace
from forecaster.types import Panel, SeriesKey


def write_panel(file: Path | IO[bytes], panel: Panel) -> None:
    """`panel` as an archive of plain arrays, for `read_panel`."""
    keys = [[key.workload, key.signal, key.request_class] for key in panel.keys]
    more: dict[str, Any] = {} if panel.reference is None else {"reference": panel.reference}
    np.savez_compressed(
        file,
        keys=np.array(keys, dtype=np.str_).reshape(-1, 3),
        start=np.array(panel.start.isoformat()),
        step_s=np.array(panel.step.total_seconds()),
        values=panel.values,
        **more,
    )


def read_panel(path: Path, *, column: str | None = None) -> Panel:
    """A panel from `write_panel`'s archive, or from a trace in CSV (plain or gzip), one series "trace/<name>".

    A trace is read by `trace.read_trace`; `column` picks one of its columns. Raises `SeriesError` saying what is wrong.
    """
    if path.suffix != ".npz":
        trace = read_trace(path, column=column)
        key = SeriesKey(workload=f"trace/{trace.name}", signal=DEMAND)
        series = trace.series
        return Panel(keys=(key,), start=series.start, step=series.step, values=series.values[None, :])
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Panel(
                keys=tuple(
                    SeriesKey(workload=one, signal=two, request_class=three)
                    for one, two, three in stored["keys"].tolist()
                ),
                start=datetime.fromisoformat(str(stored["start"])).astimezone(UTC),
                step=timedelta(seconds=float(stored["step_s"])),
                values=np.asarray(stored["values"], dtype=np.float64),
                reference=np.asarray(stored["reference"], dtype=np.float64) if "reference" in stored else None,
            )
    except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise SeriesError(f"cannot read {path.name} as a panel: {error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content takes the place of `path` when the block ends well; whoever reads sees old or new.

    Synced before it is renamed, so a power cut leaves no half file. `OSError` where that is impossible.
    """
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except BaseException:  # a Ctrl-C too must leave no draft behind
        Path(draft).unlink(missing_ok=True)
        raise
