"""Rows 16, 19 and 21 of the table: what the Kubernetes API can do to a daemon that wants to scale."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from fault_world import USUAL_REPLICAS, WORKLOAD, FaultWorld, Life
from scaler.adapters.states import State
from scaler.policy.types import Action
from scaler.ports import OutcomeKind

pytestmark = pytest.mark.server


def patches(world: FaultWorld) -> list[Any]:
    """Every write of a scale that reached the server."""
    return [each for each in world.cluster.requests if each.method == "PATCH" and each.path.endswith("/scale")]


def outcome(life: Life) -> OutcomeKind | None:
    """What became of the last decision."""
    view = life.daemon.board.view()
    assert view is not None
    told = view.report.outcomes.get(WORKLOAD)
    return None if told is None else told.kind


def hurried(world: FaultWorld, life: Life) -> int:
    """Traffic that asks for an order at the next tick; the scale it will be, one step limit up."""
    world.traffic("surge")
    return 2 * life.replicas


# ── Credentials ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_row_16_a_rotated_token_is_read_again_within_the_tick(world: FaultWorld, life: Life) -> None:
    fresh = world.cluster.rotate(world.cluster.admin_token)
    (world.folder / "token").write_text(fresh)
    wanted = hurried(world, life)
    life.seeing_minute()
    assert life.replicas == wanted
    assert sum(each.status == 401 for each in world.cluster.requests) == 1


def test_row_16_a_token_that_stays_wrong_degrades_and_never_loops(world: FaultWorld, life: Life) -> None:
    good = world.cluster.rotate(world.cluster.admin_token)
    before = len(world.cluster.requests)
    for _ in range(5):
        life.minute()
        assert life.state is State.DEGRADED
        assert life.metric("headstart_tick_duration_seconds_count") > 0
    refused = [each for each in world.cluster.requests[before:] if each.status == 401]
    assert len(refused) == len(world.cluster.requests) - before
    assert len(refused) <= 5 * 4, "a try and one retry for each list, and no storm"
    assert "doctor" in life.status.way_out
    (world.folder / "token").write_text(good)
    life.minute()
    assert life.state is not State.DEGRADED


# ── Writes that meet another ──────────────────────────────────────────────────────────────────────────────────────


def test_row_19_a_conflict_is_read_again_and_tried_three_times_at_most(world: FaultWorld, life: Life) -> None:
    wanted = hurried(world, life)
    world.cluster.fault(method="PATCH", path="/scale", status=409, times=2)
    life.seeing_minute()
    assert (life.replicas, len(patches(world))) == (wanted, 3)
    world.cluster.fault(method="PATCH", path="/scale", status=409, times=1000)
    before = len(patches(world))
    life.seeing_minute()
    assert outcome(life) in (OutcomeKind.CONFLICT, OutcomeKind.FAILED)
    assert len(patches(world)) == before + 3
    assert life.replicas == wanted


def test_row_19_a_value_that_the_decision_did_not_see_is_never_overwritten(world: FaultWorld, life: Life) -> None:
    wanted = hurried(world, life)
    other = wanted + 1
    world.cluster.fault(
        method="PATCH", path="/scale", status=409, then=lambda: world.cluster.set_replicas("llm", "chat", other)
    )
    life.seeing_minute()
    assert outcome(life) is OutcomeKind.CONFLICT
    assert life.replicas == other
    (decision,) = (record.decision for record in life.seeing_minute().records)
    assert decision.current == other, "decided anew from what stands there"


# ── Writes of which nobody knows ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"drop": "after"}, id="written, and the answer was lost"),
        pytest.param({"status": 504}, id="504 of a write that did not happen"),
        pytest.param({"drop": "before"}, id="lost on its way"),
        pytest.param({"status": 500, "times": 3}, id="500 again and again"),
    ],
)
def test_row_21_a_write_of_which_nobody_knows_never_becomes_two_steps(
    world: FaultWorld, life: Life, fault: dict[str, Any]
) -> None:
    first = hurried(world, life)
    world.cluster.fault(method="PATCH", path="/scale", **fault)
    life.seeing_minute()
    assert life.replicas in (USUAL_REPLICAS, first), "all of the step or nothing"
    scales = [life.replicas]
    for _ in range(8):
        life.seeing_minute()
        scales.append(life.replicas)
    assert all(after <= 2 * before for before, after in pairwise(scales)), scales
    assert scales == sorted(scales)
    assert scales[-1] > first


def test_row_21_a_restarted_server_is_found_again(world: FaultWorld, life: Life) -> None:
    world.cluster.kill()
    life.minute()
    assert life.state is State.DEGRADED
    assert life.snapshot.replicas.kind == "blind"  # type: ignore[union-attr]
    world.cluster.start()
    wanted = hurried(world, life)
    assert life.seeing_minute().records[0].decision.action is Action.OUT
    assert life.replicas == wanted
