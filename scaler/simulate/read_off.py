"""What is read off a sweep, whatever its points measure: a frontier, each family's cheapest, where one falls off.

The measures, what is worth having and what it costs, are the caller's. It plays nothing and knows no unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class Played(Protocol):
    """A point of a sweep."""

    @property
    def policy(self) -> str:
        """What was played."""
        ...

    @property
    def family(self) -> str:
        """Whose setting it is."""
        ...


PointT = TypeVar("PointT", bound=Played)
StartT = TypeVar("StartT")


def frontier(
    points: Iterable[PointT], *, order: Callable[[PointT], Any], cost: Callable[[PointT], float]
) -> tuple[PointT, ...]:
    """The points that no other beats in one figure and equals in the other; `order` is best first, cheaper first."""
    best: list[PointT] = []
    for point in sorted(points, key=order):
        if not best or cost(point) < cost(best[-1]):
            best.append(point)
    return tuple(best)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched(Generic[PointT]):
    """The cheapest that a family does within the target."""

    family: str
    point: PointT | None
    """None: no setting of it stays within the target."""
    tuned_in_hindsight: bool
    """Whether the knob was chosen knowing the window; the product's default was not."""


def matched(
    points: Sequence[PointT],
    default: PointT | None,
    *,
    within: Callable[[PointT], bool],
    cost: Callable[[PointT], Any],
) -> tuple[Matched[PointT], ...]:
    """The product as it comes, `default`, if it was played; then each family's cheapest point `within` the target."""
    rows = [Matched(family=default.family, point=default, tuned_in_hindsight=False)] if default else []
    for family in dict.fromkeys(each.family for each in points):
        found = (each for each in points if each.family == family and within(each))
        rows.append(Matched(family=family, point=min(found, key=cost, default=None), tuned_in_hindsight=True))
    return tuple(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cliff(Generic[StartT]):
    """How slow a start a policy bears."""

    policy: str
    within: StartT | None
    """The longest start played up to which it bears all; None: not even the shortest."""
    over: StartT | None
    """The next one played, the first that it does not bear; None: it bore all."""


def cliffs(
    points: Sequence[PointT], *, bears: Callable[[PointT], bool], start: Callable[[PointT], StartT]
) -> tuple[Cliff[StartT], ...]:
    """By policy, in the order asked; the points of each from the fastest to the slowest start."""
    found = []
    for policy in dict.fromkeys(each.policy for each in points):
        within: StartT | None = None
        over: StartT | None = None
        for point in points:
            if point.policy != policy:
                continue
            if not bears(point):
                over = start(point)
                break
            within = start(point)
        found.append(Cliff(policy=policy, within=within, over=over))
    return tuple(found)
