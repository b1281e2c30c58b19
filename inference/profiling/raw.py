"""The raw file of a sweep: one JSON object a line, appended as things happen, readable after any interruption.

    sweep      the first line: format, server, model, plan
    facts      what the server says of itself: KV cache
    calibrated a class: words for its prompt, tokens of its picture, lone times
    request    one request: level, class, tokens, times within its level, status
    sample     one look at the metrics page during a level
    level      a level that is over; requests and samples of a level without this line do not count

It holds figures and no text of any request. What the fields mean is in docs/profiling.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from inference.errors import RawFileError

FORMAT = "headstart/sweep-v1"

Line = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Kept:
    """What an interrupted sweep left: its levels that are over, and what it knew of the classes."""

    calibrated: dict[str, Line] = field(default_factory=dict)
    levels: list[Line] = field(default_factory=list)
    next_level: int = 0
    """The first number that no level has had, one that was torn included."""


class RawFile:
    """The file, open for appending."""

    def __init__(self, stream: IO[str], kept: Kept) -> None:
        self._stream = stream
        self.kept = kept

    def write(self, kind: str, **facts: Any) -> None:
        """One line, on its way to the disk when this returns."""
        self._stream.write(json.dumps({"kind": kind, **facts}, separators=(",", ":"), allow_nan=False) + "\n")
        self._stream.flush()
        if kind == "level":
            self.kept.levels.append(facts)
            self.kept.next_level = facts["level"] + 1
        elif kind == "calibrated":
            self.kept.calibrated[facts["class"]] = facts

    def close(self) -> None:
        """No more lines."""
        self._stream.close()


def open_raw(path: Path, head: Mapping[str, Any], *, started_at: str) -> RawFile:
    """A new file, or the one of this very sweep to go on with.

    Raises `RawFileError` where the file is another sweep's.
    """
    kept = Kept()
    if path.exists() and path.stat().st_size:
        kept = _kept(path, head)
        _cut_torn_line(path)
        return RawFile(path.open("a", encoding="utf-8"), kept)
    raw = RawFile(path.open("w", encoding="utf-8"), kept)
    raw.write("sweep", format=FORMAT, started_at=started_at, **head)
    return raw


def _kept(path: Path, head: Mapping[str, Any]) -> Kept:
    kept, first = Kept(), True
    with path.open(encoding="utf-8", errors="replace") as stream:
        for text in stream:
            try:
                line = json.loads(text)
                kind = line.pop("kind")
            except (ValueError, KeyError, AttributeError, TypeError):
                if first:
                    raise _foreign(path, "is not the raw file of a sweep") from None
                continue  # torn by an interruption; what follows begins on a line of its own
            if first:
                _check_head(path, line, head)
                first = False
                continue
            kept.next_level = max(kept.next_level, int(line.get("level", -1)) + 1)
            if kind == "level":
                kept.levels.append(line)
            elif kind == "calibrated":
                kept.calibrated[line["class"]] = line
    return kept


def _check_head(path: Path, line: Line, head: Mapping[str, Any]) -> None:
    if line.get("format") != FORMAT:
        raise _foreign(path, "is not the raw file of a sweep")
    for name, value in json.loads(json.dumps(head)).items():
        if line.get(name) != value:
            raise _foreign(path, f"was begun with another {name}: {line.get(name)!r}, now {value!r}"[:400])


def _foreign(path: Path, problem: str) -> RawFileError:
    return RawFileError(subject=str(path), problem=problem, fix="name another file, or give the same options as before")


def _cut_torn_line(path: Path) -> None:
    """A line that was half written when the power went is cut off, so that the next one begins on its own."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
