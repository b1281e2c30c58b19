"""How a document's first mistake is told: its place, what is wrong, and for an unknown key the one probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import ConfigDict, ValidationError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""A key that nobody knows is a mistake, and so is a number that is none."""


def first_problem(
    error: ValidationError, *, prefix: Sequence[str | int] = (), known: Sequence[str] = (), skip: int = 0
) -> str:
    """One line for the first thing wrong; `known` are the keys that a typo is compared with, `skip`
    how many parts of the place are not the document's."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = place_of((*prefix, *first["loc"][skip:]))
    if first["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        return f"{place}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    if first["type"] == "missing_argument":
        return f"{place}: is missing"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if first["type"] == "value_error" else f"{place}: {message} (got {first['input']!r})"


def place_of(path: Sequence[str | int]) -> str:
    """A path as people write it: classes[0].pools."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "document"
