"""What one tick remembers for the next: ages out, drops what a clock jump made absurd, restarts after a break.

Pure bookkeeping over `PolicyState`; it proposes nothing and clamps nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from scaler.policy.types import RELEASES_KEPT, At, OutageState, PolicyState, ReplicaState, Snapshot, VariantState


def carry(state: PolicyState, *, tick: timedelta, now: datetime) -> PolicyState:
    """The part of `state` that still holds at `now`.

    A break of more than three ticks (restart, suspend, clock jump in either direction) ends every unbroken run:
    calm, known signals, peaks and breaches start again, so a full look-back passes before anything is released.
    What was measured or written stays: the steered score, the last scale-in, the releases, the scale asked for, what
    others changed, and how the demand fell silent: a restart is no reason to believe it. The scale itself is taken as
    it is found: who changed it meanwhile cannot be told. A moment in the future is dropped, it was stamped by a clock
    that has been corrected since.
    """
    if state.last_tick_at is None:
        return state
    gap = now - state.last_tick_at
    if timedelta(0) <= gap <= 3 * tick:
        return state
    return begun_anew(state, now=now)


def begun_anew(state: PolicyState, *, now: datetime) -> PolicyState:
    """`state` with every unbroken run ended: growth is allowed at once, a release after a whole look-back.

    Also what a daemon begins with that takes over from another: its own runs were those of decisions that nobody
    carried out.
    """
    return PolicyState(
        last_scale_in_at=_not_after(state.last_scale_in_at, now),
        model=state.model,
        model_since=_not_after(state.model_since, now),
        z=state.z,
        asked=state.asked,
        disabled_since=_not_after(state.disabled_since, now),
        held=state.held,
        foreign=tuple(each for each in state.foreign if each.at <= now),
        heeded=state.heeded,
        by_hand_at=_not_after(state.by_hand_at, now),
        inflows=state.inflows,
        released=tuple(each for each in state.released if timedelta(0) <= now - each.at < RELEASES_KEPT),
        outage=OutageState(
            heard_since=_not_after(state.outage.heard_since, now),
            fell_at=_not_after(state.outage.fell_at, now),
            silent_since=_not_after(state.outage.silent_since, now),
        ),
        variant=None
        if state.variant is None
        else VariantState(chosen=state.variant.chosen, changed_at=_not_after(state.variant.changed_at, now)),
    )


def observe_replicas(state: PolicyState, replicas: ReplicaState, *, period: timedelta, now: datetime) -> PolicyState:
    """Note the scale that the cluster reports: its recent course, and a scale-in since the last tick, ours or not.

    The scale-in is dated to the tick before, when it was ordered. One of ours that left the scale as it was did not
    happen; one after which another writer raised the scale did. A zero that we asked for is no longer ours once another
    scale is seen: the write failed, or the workload woke, and the next zero is somebody else's. What was ordered since
    the scale was last seen gives way to what came of it: an order that failed released nothing, and whoever ordered
    what is gone, it is gone. A floor where the scale was read before, or the other way round, is another number: 1
    after 3 is then no change, and nobody's.
    """
    if state.desired and (state.held is None) != (replicas.held is None):
        state = begun_anew(state, now=now)
    last = state.desired[-1].replicas if state.desired else None
    shrunk = last is not None and replicas.desired < last
    ordered = last is not None and state.asked is not None and state.asked < last
    refused = ordered and last == replicas.desired and state.last_scale_in_at == state.last_tick_at
    recent = tuple(each for each in state.desired if now - each.at < period)
    waits = replicas.unschedulable > 0
    return replace(
        state,
        desired=(*recent, At(at=now, replicas=replicas.desired)),
        last_scale_in_at=state.last_tick_at if shrunk else None if refused else state.last_scale_in_at,
        asked=None if state.asked == 0 and replicas.desired > 0 else state.asked,
        unschedulable_since=(state.unschedulable_since or now) if waits else None,
        held=replicas.held,
        released=_released(state, replicas.desired, now=now),
    )


def _released(state: PolicyState, desired: int, *, now: datetime) -> tuple[At, ...]:
    """The releases of the last hour, those since the scale was last seen as they are seen now."""
    kept = tuple(each for each in state.released if now - each.at < RELEASES_KEPT)
    if not state.desired:
        return kept
    last = state.desired[-1]
    seen = tuple(each for each in kept if each.at < last.at)
    return (*seen, At(at=last.at, replicas=last.replicas - desired)) if desired < last.replicas else seen


def observe_model(state: PolicyState, snapshot: Snapshot, *, now: datetime) -> PolicyState:
    """Note when the model behind the forecasts changed; the first one is no change."""
    model = ",".join(sorted({each.forecast.model for each in snapshot.forecasts_in_force}))
    if not model or model == state.model:
        return state
    return replace(state, model=model, model_since=now if state.model else None)


def _not_after(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment is not None and moment <= now else None
