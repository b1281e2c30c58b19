"""The load of yesterday comes back today: Headstart has the servers Ready before it does. Real vLLM servers, no cluster.

Prometheus is given three days in which a burst came every twenty minutes; the next one is real, and Locust's. Told by
`make e2e` only: it lives through a burst and what follows, twenty minutes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from e2e_locust import Recurring, locust
from e2e_parts import free_ports, gateway, need_room, whole
from scaler.rehearsal.load import Shot
from scaler.rehearsal.notes import Change, Line, Notes, in_words
from scaler.rehearsal.page import page
from scaler.rehearsal.recipe import Plan, Recipe
from scaler.rehearsal.rhythm import Rhythm
from scaler.rehearsal.stage import Stage

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(2400)]

BURST_IN = timedelta(minutes=9)
AFTER = timedelta(minutes=7)


@dataclass(slots=True, kw_only=True)
class Evening:
    """What was seen of it."""

    rhythm: Rhythm
    lines: list[Line] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    picture: str = ""

    def lines_where(self, holds: Callable[[Line], bool]) -> list[Line]:
        return [each for each in self.lines if holds(each)]


@pytest.fixture(scope="module")
def evening(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Evening:
    if not whole():
        pytest.skip("twenty minutes: make e2e tells it")
    locust()
    plan = Plan(recipe=recipe, ports=free_ports())
    need_room(plan)
    rhythm = Rhythm(first_burst_at=datetime.now(UTC).replace(second=0, microsecond=0) + BURST_IN)
    seen, notes = Evening(rhythm=rhythm), Notes(rhythm=rhythm, max_rps=recipe.max_rps)
    ends = rhythm.first_burst_at + rhythm.burst + AFTER
    folder = tmp_path_factory.mktemp("stage")
    with Stage(folder, plan, gateway=gateway(), past=rhythm) as stage:
        traffic = Recurring(stage.gateway_url, folder, first_burst_at=rhythm.first_burst_at)
        while not stage.takes_requests():
            assert datetime.now(UTC) < rhythm.first_burst_at, "no server was Ready when the burst came"
            time.sleep(0.5)
        with traffic.running():
            while datetime.now(UTC) < ends:
                documents = (stage.workload(), stage.decision(), stage.forecast())
                notes.look(*documents, traffic.look(), now=datetime.now(UTC))
                time.sleep(3)
        seen.shots = list(traffic.target.shots)
    seen.lines, seen.changes, seen.picture = notes.lines, notes.changes, page(notes)
    for change in seen.changes:
        sys.stdout.write(f"second peak: {in_words(change)}\n")
    return seen


def test_servers_were_ordered_while_it_was_quiet_because_the_burst_was_foreseen(evening: Evening) -> None:
    before = [each for each in evening.changes if each.after > each.before and each.at < evening.rhythm.first_burst_at]
    assert [each.reason for each in before] == ["forecast"] * len(before)
    assert before[-1].after == 3


def test_all_of_them_were_ready_when_it_came(evening: Evening) -> None:
    begin = evening.rhythm.first_burst_at
    (first, *_) = evening.lines_where(lambda line: line.at >= begin)
    assert first.ready == 3


def test_nothing_was_lost(evening: Evening) -> None:
    assert len(evening.shots) > 500
    assert [each.problem for each in evening.shots if not each.served] == []


def test_what_was_not_needed_any_more_was_given_back(evening: Evening) -> None:
    assert evening.lines[-1].wanted is not None
    assert evening.lines[-1].wanted < 3


def test_the_picture_shows_it(evening: Evening) -> None:
    assert evening.picture.count("<tr>") == 1 + len(evening.changes)
