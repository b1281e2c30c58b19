"""How a document's mistake is told: its place, what is wrong, and for an unknown key the one probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import ConfigDict, ValidationError
from pydantic_core import ErrorDetails

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""A key that nobody knows is a mistake, and so is a number that is none."""

_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def chosen(error: ValidationError) -> ErrorDetails:
    """The mistake to tell: an unknown key before what is missing because of it."""
    mistakes = error.errors(include_url=False, include_context=False)
    unknown = [each for each in mistakes if each["type"] == "unexpected_keyword_argument"]
    return (unknown or mistakes)[0]


def told(
    mistake: ErrorDetails, *, prefix: Sequence[str | int] = (), known: Sequence[str] = (), skip: int = 0,
    quote: bool = True,
) -> str:  # fmt: skip
    """One line for a mistake. `known` are the keys that a typo is compared with, `skip` how many parts of the place are
    not the document's; `quote` is False where what was written may be a secret."""
    place = place_of((*prefix, *mistake["loc"][skip:]))
    if mistake["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
        return f"{place}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    if mistake["type"] in _MISSING:
        return f"{place}: is missing"
    message = mistake["msg"].removeprefix("Value error, ")
    return (
        f"{place}: {message} (got {mistake['input']!r})"
        if quote and message == mistake["msg"]
        else f"{place}: {message}"
    )


def place_of(path: Sequence[str | int]) -> str:
    """A path as people write it: classes[0].pools."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "document"
