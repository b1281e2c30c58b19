"""Every error this package raises on purpose, apart from the adapters' own trees.

    ScalerError
    ├── ConfigError       a configuration that cannot be used: every problem found, each with its place
    ├── DataError         a data folder, journal or daemon that cannot be read
    └── CommandError      a command that cannot do what it was asked

Facts are fields, so that a caller can act on them; the text says what failed, on what, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class ScalerError(Exception):
    """Base of the tree above."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ConfigIssue:
    """One problem in a file: where it is (line and column count from 1), which setting, and what to do about it."""

    file: str
    line: int
    column: int
    setting: str
    """Path of the setting, such as "workloads[0].bounds.max_replicas"; empty for the file as a whole."""
    text: str

    def __str__(self) -> str:
        setting = f"{self.setting}: " if self.setting else ""
        return f"{self.file}:{self.line}:{self.column}: {setting}{self.text}"


class ConfigError(ScalerError):
    """A configuration that cannot be used; `issues` holds all that was found, in the order of the file.

    `files` are those beside the main one that it names, as far as it could be read, missing ones included: once one
    of them changes it is worth reading again.
    """

    def __init__(self, issues: Sequence[ConfigIssue], *, files: Sequence[Path] = ()) -> None:
        self.issues = tuple(issues)
        self.files = tuple(files)
        super().__init__("\n".join(str(issue) for issue in self.issues))


class DataError(ScalerError):
    """A data folder, journal or daemon that cannot be read."""


class CommandError(ScalerError):
    """A command that cannot do what it was asked: an unknown workload, a missing extra, a daemon that refused."""
