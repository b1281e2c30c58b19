"""A ceiling on what a competitor orders: the `maxReplicas` of its HorizontalPodAutoscaler.

It clamps orders and changes nothing that a policy sees or remembers. The product has bounds of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaler.simulate.policies import Memory, Planner, Rule, Sight


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedRule:
    """A rule that orders at most so many replicas."""

    rule: Rule
    most: int

    @property
    def name(self) -> str:
        """The rule's."""
        return self.rule.name

    def decide(self, load: float, replicas: int, memory: Memory) -> tuple[int, Memory]:
        """See `Rule`."""
        wanted, memory = self.rule.decide(load, replicas, memory)
        return min(wanted, self.most), memory


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedPlanner:
    """A planner that orders at most so many replicas."""

    planner: Planner
    most: int

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        wanted, memory = self.planner.decide(sight, memory)
        return min(wanted, self.most), memory
