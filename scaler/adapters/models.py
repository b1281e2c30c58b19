"""Which models forecast here now: looked up before every run, so that a promotion counts within a minute.

It decides when stored models are read again and that a bad one never replaces a good one. It trains nothing and
promotes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from forecaster import registry
from forecaster.errors import ArtefactError
from forecaster.models.memory import family
from forecaster.models.stored import KINDS
from forecaster.types import Forecaster


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The members in use, when the fitted ones were trained, and what is wanted but cannot be used."""

    members: tuple[Forecaster, ...] = ()
    trained_at: Mapping[str, datetime] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class ModelShelf:
    """The models of one site. One thread at a time."""

    def __init__(self, root: Path, wanted: Sequence[str]) -> None:
        """`root` is the folder of the site's own models; `wanted` are families in the order of the settings."""
        self._root = root
        self._wanted = tuple(wanted)
        self._seen: tuple[str, ...] | None = None
        self._shelf = Shelf()

    def current(self) -> tuple[Shelf, bool]:
        """The members to use, and whether that changed since the last call."""
        seen = tuple(_pointer(self._root, model) for model in KINDS)
        if seen == self._seen:
            return self._shelf, False
        self._seen = seen
        found = registry.members(self._root, also=self._wanted)
        usable = {family(each.model_id): each for each in found.forecasters}
        for each in self._shelf.members:
            if family(each.model_id) in found.refused:
                usable[family(each.model_id)] = each  # the last good one goes on
        refused = {model: why for model, why in found.refused.items() if model in self._wanted}
        for model in self._wanted:
            if model not in usable:
                refused.setdefault(model, f"no {model} is stored here: the next refit may bring one")
        members = tuple(usable[model] for model in self._wanted if model in usable)
        self._shelf = Shelf(members=members, trained_at=_trained_at(self._root, members), refused=refused)
        return self._shelf, True


def _pointer(root: Path, model: str) -> str:
    """What tells one promotion from another: cheaper than reading the models, and never wrong about a change."""
    try:
        stat = (root / model / "current.json").stat()
    except OSError:
        return ""
    return f"{stat.st_mtime_ns}/{stat.st_ino}"


def _trained_at(root: Path, members: Sequence[Forecaster]) -> dict[str, datetime]:
    """When each fitted member was trained: the end of the data it has seen."""
    found = {}
    for member in members:
        model, _, version = member.model_id.partition("@")
        if not version:
            continue
        for place in (root, registry.shipped_models()):
            if place is None or version not in registry.versions(place, model):
                continue
            try:
                found[model] = registry.read(place, model, version=version)[0].span.end
            except ArtefactError:
                continue  # it was readable a moment ago; its age is only shown
            break
    return found
