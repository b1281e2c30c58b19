"""A demo run as columns for analysts: `pandas.DataFrame(load_columns(run))` and plot.

Long form throughout, `unique_id, ds, y` first (the Nixtla shape); times are UTC. It computes nothing that the run did
not already decide, and imports no data-frame library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from scaler.policy.types import Decision
from scaler.simulate.demo import POLICIES, DemoRun, WorkloadRun
from scaler.simulate.recording import TRUSTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = dict[str, "NDArray[Any]"]
"""Columns of equal length, by name."""


def load_columns(run: DemoRun) -> Columns:
    """Each workload's load a minute: `unique_id, ds, y` (requests a second) and whether the minute is `scored`."""
    return _stacked(
        run,
        lambda one: {
            "y": one.workload.virtual.demand_rps.values,
            "scored": np.arange(_bins(one)) >= run.learning_days * 1440,
        },
    )


def forecast_columns(run: DemoRun) -> Columns:
    """What was forecast of each minute one start time before it, in requests a second like `y`.

    `q50`, `q95` and `ordered` (the steered quantile that replicas are ordered for); NaN where there was no forecast.
    `trust` is the verdict at that minute.
    """

    def columns(one: WorkloadRun) -> Columns:
        rate, track = one.workload.virtual.max_rps, one.track
        return {
            "y": one.workload.virtual.demand_rps.values,
            "q50": track.median * rate,
            "q95": track.upper * rate,
            "ordered": track.order * rate,
            "trust": np.array([each.value for each in TRUSTS])[track.trust],
        }

    return _stacked(run, columns)


def replica_columns(run: DemoRun) -> Columns:
    """Replicas a minute: `unique_id, ds, y` (load in full replicas), `policy, serving, billed, missed`."""
    parts = []
    for policy in POLICIES:

        def columns(one: WorkloadRun, policy: str = policy) -> Columns:
            course = one.courses[policy]
            return {
                "y": course.load,
                "policy": np.full(course.load.size, policy),
                "serving": course.serving,
                "billed": course.billed,
                "missed": course.missed,
            }

        parts.append(_stacked(run, columns))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def decision_columns(run: DemoRun) -> Columns:
    """Every change of scale: `unique_id, ds, replicas_from, replicas_to, reason, why` (proposals and clamps)."""
    rows = [(one, after, decision) for one in run.runs for after, decision in one.track.changes]
    return {
        "unique_id": np.array([one.name for one, _, _ in rows], dtype=object),
        "ds": np.array([np.datetime64(decision.at.replace(tzinfo=None), "s") for _, _, decision in rows]),
        "replicas_from": np.array([decision.current for _, _, decision in rows]),
        "replicas_to": np.array([decision.target for _, _, decision in rows]),
        "reason": np.array([decision.reason.value for _, _, decision in rows], dtype=object),
        "why": np.array([_why(decision) for _, _, decision in rows], dtype=object),
    }


def score_columns(run: DemoRun) -> Columns:
    """One row a workload and policy with the figures of `simulate -o json`, over the scored days."""
    rows = [
        {"unique_id": one.name, "policy": policy, **one.scores[policy].as_json()}
        for one in run.runs
        for policy in POLICIES
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _bins(one: WorkloadRun) -> int:
    return one.workload.virtual.demand_rps.values.size


def _stacked(run: DemoRun, columns: Callable[[WorkloadRun], Columns]) -> Columns:
    """One block of rows a workload, `unique_id` and `ds` in front."""
    blocks = []
    for one in run.runs:
        start = np.datetime64(run.start.replace(tzinfo=None), "s")
        step_s = int(one.workload.virtual.demand_rps.step.total_seconds())
        times = start + np.arange(_bins(one)) * np.timedelta64(step_s, "s")
        blocks.append({"unique_id": np.full(times.size, one.name), "ds": times, **columns(one)})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _why(decision: Decision) -> str:
    proposals = [f"{each.rule} wants {each.want}: {each.detail}" for each in decision.proposals]
    clamps = [f"{each.rule} {each.before} → {each.after}: {each.detail}" for each in decision.adjustments]
    return "; ".join(proposals + clamps)
