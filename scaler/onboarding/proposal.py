"""First settings of one workload, each with the reason it is what it is. Pure.

It never proposes to write: the mode is the file's default, observe. A figure that is a guess says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from forecaster.sources.selector import WorkloadSelector
from scaler.onboarding.candidates import Candidate
from scaler.onboarding.metrics import Tie

UNMEASURED_RPS = 1.0
"""What a replica is taken to serve where nothing is known: too little for nearly any model, so it errs on more GPUs."""

LEAST_SEEN_RPS = 0.01
"""A replica that was never seen to serve more was idle: that says nothing of what it could."""

START_STEP_S = 5
"""Measured start times are rounded up to this: a measurement of a few pods knows no single seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileGuess:
    """A shipped profile by its name, or one to be written down with a rate to be measured; `reason` for people."""

    shipped: str | None
    max_rps: float
    gpus: int
    reason: str

    @property
    def is_placeholder(self) -> bool:
        """Whether the rate was neither measured nor published."""
        return self.shipped is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One workload's entry."""

    candidate: Candidate
    profile: ProfileGuess
    min_replicas: int
    max_replicas: int
    start_time: timedelta | None
    selector: WorkloadSelector | None
    problem: str = ""
    """Why its series are not found yet."""


def propose(candidate: Candidate, tie: Tie, shipped: Mapping[str, int]) -> Proposal:
    """The entry of one workload; `shipped` are the GPUs of the profiles that come with the product, by name."""
    least, most = bounds_around(candidate.replicas)
    start = candidate.start_time
    if start is not None:
        start = timedelta(seconds=max(START_STEP_S, math.ceil(start.total_seconds() / START_STEP_S) * START_STEP_S))
    return Proposal(
        candidate=candidate,
        profile=guess_profile(candidate, tie.best_rps, shipped),
        min_replicas=least,
        max_replicas=most,
        start_time=start,
        selector=tie.selector,
        problem=tie.problem,
    )


def bounds_around(replicas: int) -> tuple[int, int]:
    """Half to twice the present scale: 6 → 3 to 12, 1 → 1 to 2, 0 → 1 to 2."""
    return max(1, math.ceil(replicas / 2)), max(2, 2 * replicas)


def guess_profile(candidate: Candidate, best_rps: float | None, shipped: Mapping[str, int]) -> ProfileGuess:
    """The shipped profile of the same model on as many GPUs; else what one replica was seen to serve."""
    for model in (candidate.model, *candidate.served_names):
        name = nearest_profile(model, candidate.gpus, shipped)
        if name is not None:
            card = name.rpartition("-")[2]
            reason = f"same model; its figures are of {card}: on other cards measure your own"
            return ProfileGuess(shipped=name, max_rps=0.0, gpus=shipped[name], reason=reason)
    gpus = max(1, candidate.gpus)
    each = (best_rps or 0.0) / max(1, candidate.replicas)
    if candidate.replicas and each >= LEAST_SEEN_RPS:
        reason = (
            f"the most seen in 7 days, {best_rps:.3g} requests/s, over the {candidate.replicas} replicas of now: "
            "a lower bound, measure it"
        )
        return ProfileGuess(shipped=None, max_rps=float(f"{each:.3g}"), gpus=gpus, reason=reason)
    reason = "a PLACEHOLDER: measure what one replica serves within your latency targets"
    return ProfileGuess(shipped=None, max_rps=UNMEASURED_RPS, gpus=gpus, reason=reason)


def nearest_profile(model: str, gpus: int, shipped: Mapping[str, int]) -> str | None:
    """The shipped profile whose model and size the name holds, on the same number of GPUs (any, where it is not known).

    "meta-llama/Llama-3.1-8B-Instruct" on one GPU is "llama-3.1-8b-h100"; a 70B is none.
    """
    plain = re.sub(r"[_\s]+", "-", model.rpartition("/")[2].lower())
    named = sorted(shipped, key=len, reverse=True)
    for name in named:
        part = re.escape(name.rpartition("-")[0])
        if re.search(rf"(?:^|-){part}(?:-|$)", plain) and gpus in (0, shipped[name]):
            return name
    return None


def order_of(proposals: Sequence[Proposal]) -> list[Proposal]:
    """By workload; the first of two that would have the same name."""
    found: dict[str, Proposal] = {}
    for each in proposals:
        found.setdefault(each.candidate.workload, each)
    return [found[name] for name in sorted(found)]
