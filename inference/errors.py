"""Every error this package raises on purpose.

    InferenceError
    ├── InvalidValue      a launch spec or placement that cannot work; `subject`, `field`, `value`, `fix`
    ├── CatalogueError    a catalogue file that cannot be read as one; `source`, `problem`
    ├── DocumentError     a gateway's settings, backends or tenants that cannot be used; `source`, `problem`
    ├── LaunchFailed      a process that could not be begun; `command`, `folder`, `problem`
    └── ProfilingError    a sweep that cannot begin or go on; `subject`, `problem`, `fix`
        ├── ServerBusy    the server serves somebody else
        └── RawFileError  a raw file that is not this sweep's, or none

Facts are fields, so that a caller can act on them; the text says what failed, on what, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class InferenceError(Exception):
    """Base of this package's errors."""


class InvalidValue(InferenceError):
    """One value of a launch spec that vLLM or Kubernetes would refuse, found before a GPU is spent on it."""

    def __init__(self, *, subject: str, field: str, value: object, problem: str, fix: str) -> None:
        self.subject = subject
        self.field = field
        self.value = value
        self.problem = problem
        self.fix = fix
        super().__init__(f"{subject}: {field} = {value!r} {problem}; {fix}")


class CatalogueError(InferenceError):
    """A catalogue that is not what `read_catalogue` promises to read; `problem` names the place in it."""

    def __init__(self, *, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}")


class DocumentError(InferenceError):
    """A document of the gateway that cannot be used; `problem` names the place in it and what to do."""

    def __init__(self, *, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}")


class LaunchFailed(InferenceError):
    """A process that could not be begun: its program, its folder or its log cannot be used."""

    def __init__(self, *, command: Sequence[str], folder: Path, problem: str) -> None:
        self.command = tuple(command)
        self.folder = folder
        self.problem = problem
        super().__init__(f"{command[0] if command else 'no command'} could not be started in {folder}: {problem}")


class ProfilingError(InferenceError):
    """A sweep that cannot begin or go on. What was measured before is kept."""

    def __init__(self, *, subject: str, problem: str, fix: str) -> None:
        self.subject = subject
        self.problem = problem
        self.fix = fix
        super().__init__(f"{subject}: {problem}; {fix}")


class ServerBusy(ProfilingError):
    """The server serves somebody else: a sweep would slow their answers down, and they would spoil its figures."""


class RawFileError(ProfilingError):
    """A raw file that another sweep wrote, or that is none."""
