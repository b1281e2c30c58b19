"""Bounds on what a competitor orders: the `minReplicas` and `maxReplicas` of its HorizontalPodAutoscaler.

They clamp orders and change nothing that a policy sees or remembers. The product has bounds of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaler.simulate.policies import Memory, Planner, Rule, Sight


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedRule:
    """A rule that orders so many replicas at most, and at least."""

    rule: Rule
    most: int
    fewest: int = 1

    @property
    def name(self) -> str:
        """The rule's."""
        return self.rule.name

    def decide(self, load: float, replicas: int, memory: Memory) -> tuple[int, Memory]:
        """See `Rule`."""
        wanted, memory = self.rule.decide(load, replicas, memory)
        return max(self.fewest, min(wanted, self.most)), memory


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedPlanner:
    """A planner that orders so many replicas at most, and at least."""

    planner: Planner
    most: int
    fewest: int = 1

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        wanted, memory = self.planner.decide(sight, memory)
        return max(self.fewest, min(wanted, self.most)), memory
