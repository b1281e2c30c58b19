"""Every error this package raises on purpose.

    ForecasterError
    ├── SeriesError        a series or panel that breaks the grid's rules
    ├── SourceError        the metrics source could not answer
    │   ├── SourceTimeout      the total deadline passed
    │   ├── SourceRefused      the server answered 4xx/5xx, or not at all
    │   └── SourceMalformed    an answer that is not what Prometheus promises
    ├── HistoryError       the history file is unusable
    ├── FittingError       a model could not be fitted on this data
    ├── TrainingError      the training job cannot run: its folder is in use, its engine is not there
    └── ArtefactError      a stored model is missing, damaged, or made for other data

Facts are fields, so that a caller can act on them; the text says what failed, on what, and what to do next.
"""

from __future__ import annotations


class ForecasterError(Exception):
    """Base of the tree above."""


class SeriesError(ForecasterError):
    """A series or panel that breaks the rules of the grid."""


class SourceError(ForecasterError):
    """The metrics source could not answer; `retryable` says whether the next tick may try again."""

    def __init__(self, message: str, *, query: str = "", retryable: bool = True) -> None:
        super().__init__(message)
        self.query = query
        self.retryable = retryable


class SourceTimeout(SourceError):
    """The total deadline of the call passed, connection and body included."""


class SourceRefused(SourceError):
    """The server refused the connection or answered with an error status."""

    def __init__(self, message: str, *, query: str = "", retryable: bool = True, status: int | None = None) -> None:
        super().__init__(message, query=query, retryable=retryable)
        self.status = status


class SourceMalformed(SourceError):
    """The body is not a Prometheus answer (HTML, truncated JSON, wrong shape)."""


class HistoryError(ForecasterError):
    """The history file cannot be used; the text names the file and the way out."""


class FittingError(ForecasterError):
    """A model could not be fitted on this data."""


class TrainingError(ForecasterError):
    """The training job cannot run here, whatever the data: another one works in its folder, or its engine is absent."""


class ArtefactError(ForecasterError):
    """A stored model is missing, damaged (hash), or made for another signal or step."""
