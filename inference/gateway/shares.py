"""Which part of a model's traffic each of its variants gets while they are switched, as whoever switches them says.

Parsing, and the arithmetic from a variant's share to its replicas'. It asks nobody, and a document that says nothing
of a model leaves that model's replicas as their own weights say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inference.errors import DocumentError

Shares = Mapping[str, Mapping[str, float]]
"""By model, and by the name that the variant's replicas give it: 0 to 1."""

LAST_RESORT = 1e-6
"""A share of 0: in a million requests one may come, and all of them where no other variant has a replica or a slot.
None at all would refuse what a replica that is still there could answer."""


def parse_shares(text: str, *, source: str) -> Shares | None:
    """The shares of a `kind: Shares` document in JSON; None where its writer does not lead, and another one knows.

    Raises `DocumentError` with the place.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(source=source, problem=f"cannot be read as JSON: {' '.join(str(error).split())}") from error
    leads = document.get("leads") if isinstance(document, dict) and document.get("kind") == "Shares" else None
    if not isinstance(leads, bool):
        raise DocumentError(source=source, problem="is no document of shares (kind: Shares, leads: true or false)")
    if not leads:
        return None
    models = document.get("models")
    if not isinstance(models, list) or not all(isinstance(each, dict) for each in models):
        raise DocumentError(source=source, problem="has no list of models; an empty one is written models: []")
    return {_name(each.get("model"), source=source): _of_model(each, source=source) for each in models}


def worth_of(sizes: Mapping[str, float], shares: Mapping[str, float] | None) -> Mapping[str, float]:
    """What one unit of a replica's size (capacity times weight) is worth, by variant; `sizes` are the variants' sums.

    8B has two replicas of 1.0 and a share of 0.6, 4B one of 1.0 and 0.4: 0.3 and 0.4 for each replica. Without shares
    every unit is worth the same.
    """
    if not shares:
        return dict.fromkeys(sizes, 1.0)
    return {
        variant: max(shares.get(variant, 0.0), LAST_RESORT) / size if size > 0.0 else 0.0
        for variant, size in sizes.items()
    }


def _name(value: Any, *, source: str) -> str:
    if not isinstance(value, str) or not value:
        raise DocumentError(source=source, problem=f"models name {value!r}, which is no name")
    return value


def _of_model(entry: Mapping[str, Any], *, source: str) -> dict[str, float]:
    shares = entry.get("shares")
    if not isinstance(shares, dict):
        raise DocumentError(source=source, problem=f"says no shares of {entry.get('model')}")
    for variant, share in shares.items():
        # NaN, which json reads, is in no interval.
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0 + 1e-9:
            problem = f"says {share!r} of {variant}; a share lies between 0 and 1"
            raise DocumentError(source=source, problem=problem)
    return {str(variant): min(1.0, float(share)) for variant, share in shares.items()}
