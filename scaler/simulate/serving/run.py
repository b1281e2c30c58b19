"""Policies over request-level replicas: the SLO protocol of `headstart simulate --profile`, from a trace to figures.

Time passes here: requests come and are routed, slots of metrics are closed, whoever is in charge acts at their ends,
and requests that came in the window may finish in its tail. Within one seed every policy meets the same requests. How
a request is served, seen or judged, and who is in charge, is the business of the modules beside this one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from forecaster import registry
from forecaster.trace import Trace
from forecaster.types import Forecaster
from scaler.policy.capacity import CapacityProfile
from scaler.simulate.serving.crew import Crew, crew
from scaler.simulate.serving.engine import Request
from scaler.simulate.serving.events import BAD_POD_SLOWDOWN, EventError, EventKind
from scaler.simulate.serving.outcome import Interval, Outcome, PodStart, ServingRun
from scaler.simulate.serving.slo import MINUTE_S, Ledger
from scaler.simulate.serving.stage import ProfileError, Scene, ServingSetting, Stage
from scaler.simulate.trace import Progress, UnknownPolicyError

if TYPE_CHECKING:
    from scaler.ports import Journal

__all__ = [
    "EventError",
    "Interval",
    "Outcome",
    "PodStart",
    "ProfileError",
    "ServingRun",
    "ServingSetting",
    "UnknownPolicyError",
    "simulate_serving",
]

TAIL_S = 300.0
"""Requests that came in the window may still finish so long after it; nothing is billed then."""


def simulate_serving(
    trace: Trace,
    profile: CapacityProfile,
    policies: Sequence[str],
    setting: ServingSetting,
    *,
    members: Sequence[Forecaster] | None = None,
    progress: Progress | None = None,
    journals: Mapping[str, Journal] | None = None,
) -> ServingRun:
    """Play every policy on the trace, request by request, once a seed. Equal arguments give an equal run.

    `journals`, by policy, take the product's records as the daemon's journal does; they want a single seed, for each
    seed lives through the same minutes.

    Raises:
        UnknownPolicyError: a policy that is not there, before anything is played.
        ProfileError: the profile has no service model, no start phases, or a class without tokens.
        EventError: an event that cannot be read or lies outside the window.
        SeriesError: there is nothing to score.
        OSError: a journal refused.
    """
    found = tuple(members if members is not None else registry.members(step=trace.series.step).forecasters)
    stage = Stage.of(trace, profile, setting, found)
    names = tuple(dict.fromkeys(policies))
    for name in names:
        stage.check(name)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    done, total = 0, len(names) * len(setting.seeds)
    for seed in setting.seeds:
        scene = Scene(stage, seed)
        for name in names:
            tell = _teller(progress, name, done, total)
            journal = (journals or {}).get(name)
            outcomes[name].append(_lived(scene, crew(scene, name, journal=journal), tell))
            done += 1
    return ServingRun(
        trace=trace,
        profile=profile,
        seeds=setting.seeds,
        events=setting.events,
        cold_start_s=stage.start.total_s,
        requests_scale=stage.scale,
        start=stage.opens_at,
        outcomes={name: tuple(each) for name, each in outcomes.items()},
    )


def _teller(progress: Progress | None, name: str, done: int, total: int) -> Callable[[float], None]:
    def tell(part: float) -> None:
        if progress is not None:
            progress((done + part) / total, f"{name} serves")

    return tell


def _lived(scene: Scene, crew: Crew, tell: Callable[[float], None]) -> Outcome:
    """The window, request by request, with that crew in charge."""
    stage, pool, meter = scene.stage, crew.pool, crew.meter
    window_s = stage.bins * stage.bin_s
    ledger = Ledger(stage.profile.classes, minutes=math.ceil(window_s / MINUTE_S))
    serving, billed = np.zeros(stage.bins, dtype=np.int64), np.zeros(stage.bins, dtype=np.int64)
    slow_from = stage.timeline.begins(EventKind.BAD_POD)
    before = pool.billed
    for index in range(stage.bins):
        serving[index], billed[index] = pool.serving, pool.billed
        requests = deque(scene.traffic.bin(index))
        for slot in range(1, stage.slots_per_bin + 1):
            # the last slot ends with the bin exactly, so that every request falls into one
            end_s = (index + slot / stage.slots_per_bin) * stage.bin_s
            ended = _slot(crew, ledger, requests, end_s)
            meter.dark = stage.timeline.dark(end_s, end_s)
            meter.close(ended, known=bool(scene.known[index]))
            while slow_from and slow_from[0] <= end_s:
                slow_from.pop(0)
                pool.slow_down_oldest(BAD_POD_SLOWDOWN, end_s)
            if end_s < window_s:
                crew.control.act(end_s)
        tell((index + 1) / stage.bins)
    pool.advance(window_s + TAIL_S)
    ledger.end(pool.take_ended())
    return Outcome.of(pool, ledger.report(), scene=scene, serving=serving, billed=billed, before=before)


def _slot(crew: Crew, ledger: Ledger, requests: deque[Request], end_s: float) -> Sequence[Request]:
    """Let the requests of a slot come and be served until its end; those that ended in it."""
    pool, arriving = crew.pool, crew.meter.arriving
    while requests and requests[0].arrived_s < end_s:
        request = requests.popleft()
        pool.advance(request.arrived_s)
        pool.submit(request)
        ledger.arrive(request)
        arriving[request.request_class] += 1
    pool.advance(end_s)
    ended = pool.take_ended()
    ledger.end(ended)
    return ended
