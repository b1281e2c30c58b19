"""What affinity costs a full fleet whose prompts share nothing, by the gateway's own routing over modelled servers.

The table in docs/profiling.md. A server computes eight sequences a step of 31 ms and 1.2 ms a sequence, 33 steps an
answer; 24 users ask again as soon as they are answered.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from inference.gateway.routing import RoutingRule, choose

PAGE = (Path(__file__).parents[3] / "docs" / "profiling.md").read_text(encoding="utf-8")
USERS, STEPS, AT_ONCE, SECONDS = 24, 33, 8, 200.0


@dataclass(eq=False, slots=True, kw_only=True)
class Modelled:
    """A server: those it holds as [steps left, asked at], and how far it has come."""

    seed: int
    held: list[list[float]] = field(default_factory=list)
    now_s: float = 0.0
    variant: str = "tiny"
    share: float = 1.0
    slots: int = 64

    @property
    def in_flight(self) -> int:
        return len(self.held)

    def step(self) -> list[float]:
        """One step; how long those took that it answered."""
        batch = self.held[:AT_ONCE]
        self.now_s += 0.031 + 0.0012 * len(batch)
        for each in batch:
            each[0] -= 1
        answered = [each for each in batch if each[0] == 0]
        self.held = [each for each in self.held if each[0] > 0]
        return [self.now_s - asked_s for _, asked_s in answered]


def served(servers: int, rule: RoutingRule, *, keyed: bool) -> tuple[float, float]:
    """Answers a second, and the P95 of what they took."""
    dice = random.Random(1)
    fleet = [Modelled(seed=dice.getrandbits(64)) for _ in range(servers)]
    taken: list[float] = []

    def ask(now_s: float) -> None:
        key = dice.getrandbits(64) if keyed else None
        chosen = choose(fleet, key=key, spread=dice.getrandbits(64), rule=rule)
        assert chosen is not None
        if not chosen.held:
            chosen.now_s = max(chosen.now_s, now_s)
        chosen.held.append([STEPS, now_s])

    for _ in range(USERS):
        ask(0.0)
    now_s = 0.0
    while now_s < SECONDS:
        first = min((each for each in fleet if each.held), key=lambda each: each.now_s)
        now_s = first.now_s
        for took_s in first.step():
            taken.append(took_s)
            ask(first.now_s)
    return len(taken) / SECONDS, sorted(taken)[int(0.95 * len(taken))]


@pytest.mark.parametrize(
    ("row", "rule", "keyed"),
    [
        pytest.param("least loaded, or `routing: {bound: 1}`", RoutingRule(), False, id="least loaded"),
        pytest.param("least loaded, or `routing: {bound: 1}`", RoutingRule(bound=1.0), True, id="bound 1"),
        pytest.param("`bound: 1.1`", RoutingRule(bound=1.1), True, id="bound 1.1"),
        pytest.param("`bound: 1.25`, the default", RoutingRule(), True, id="as it is by default"),
    ],
)
def test_three_servers_against_one_are_as_the_page_says(row: str, rule: RoutingRule, keyed: bool) -> None:
    found = re.search(rf"^\| {re.escape(row)} \| ([\d.]+) × \| ([\d.]+) × \|$", PAGE, flags=re.MULTILINE)
    assert found, f"no row {row}"
    one, three = served(1, rule, keyed=keyed), served(3, rule, keyed=keyed)
    assert three[0] / one[0] == pytest.approx(float(found[1]), abs=0.01)
    assert three[1] / one[1] == pytest.approx(float(found[2]), abs=0.01)
