"""Judges what the cluster says of one workload: its object, its rivals, its limits, its starts. Pure, over facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from forecaster.types import Blind, BlindReason
from scaler.adapters.kubernetes import UNHEARD, FloorRef, Permission, WorkloadPods
from scaler.adapters.kubernetes.drain import Drain
from scaler.adapters.kubernetes.rivals import WAY_OUT
from scaler.doctor.account import judge_permissions
from scaler.doctor.finding import FLEET, Finding, Health, skipped, well
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import Mode, ReplicaState

OLDEST_SUPPORTED = (1, 20)
"""The oldest control plane that was tried."""

SLOWER_START = 1.5
"""A measured start over the configured one from which orders come noticeably late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFacts:
    """What the object's pod template says; None where a container says nothing of it."""

    gpus: int
    has_readiness_probe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFacts:
    """What was found of one target. A text in place of a fact says why it is not known."""

    kind: str
    floor: FloorRef | None
    """The autoscaler that it is read through."""
    pods: WorkloadPods | Blind
    start_time: timedelta | None
    missing: tuple[Permission, ...] | str
    template: TemplateFacts | str
    drain: Drain | str
    rivals: tuple[str, ...] | None
    """Other autoscalers that point at the same object, such as "ScaledObject llm/chat"; None where that is unknown."""
    gpu_quota: int | str | None
    """GPUs that a ResourceQuota of the namespace allows; None without one."""


def judge_version(version: tuple[int, int] | None) -> Finding:
    """Whether the API server is one that was tried."""
    if version is None:
        return well("api server", "answers")
    name = f"{version[0]}.{version[1]}"
    if version >= OLDEST_SUPPORTED:
        return well("api server", f"answers (Kubernetes {name})")
    fix = "upgrade the control plane, or stay in observe mode"
    found = f"Kubernetes {name}; the oldest tried is 1.20"
    return Finding(workload=FLEET, check="api server", health=Health.WARN, found=found, fix=fix)


def judge_object(policy: WorkloadPolicy, facts: ObjectFacts) -> Iterator[Finding]:
    """Everything about one target."""
    name = policy.workload
    if isinstance(facts.pods, Blind):
        yield _unread(policy, facts.pods)
    else:
        replicas = facts.pods.replicas
        what = facts.kind if facts.floor is None else f"floor of {facts.floor}"
        yield well("target", f"{what}: {replicas.desired} desired, {replicas.ready} Ready", name)
        yield _scale(policy, replicas)
        yield _start(policy, facts.start_time)
        if facts.pods.annotations is None:
            yield skipped("annotations", UNHEARD, name)
    yield from judge_permissions(name, facts.missing, does=_DOES.get(policy.mode, "observe"))
    yield from _template(policy, facts.template)
    yield _drain(policy, facts.drain)
    yield _rivals(policy, facts)
    yield _quota(policy, facts.gpu_quota)


_DOES = {Mode.ACTIVE: "observe and scale", Mode.FLOOR: "observe and set the floor"}


def _unread(policy: WorkloadPolicy, why: Blind) -> Finding:
    fix = "check target.kind, target.name and the namespace; permissions are checked below"
    if why.reason is BlindReason.NO_AUTOSCALER:
        fix = "an HPA or ScaledObject there, and its kind and name in target.floor; or another mode"
    return Finding(workload=policy.workload, check="target", health=Health.FAIL, found=why.detail, fix=fix)


def _scale(policy: WorkloadPolicy, replicas: ReplicaState) -> Finding:
    least, most, now = policy.bounds.min_replicas, policy.bounds.max_replicas, replicas.desired
    under_floor = replicas.held is not None
    if replicas.asleep_under_a_floor or (not under_floor and now == 0 and least > 0):
        fix = "kubectl scale it up once; Headstart leaves what somebody scaled to zero alone"
        return Finding(workload=policy.workload, check="bounds", health=Health.WARN, found="it stands at 0", fix=fix)
    if now > most:
        what = f"a floor of {now}" if under_floor else f"{now} replicas"
        would = "lowered" if under_floor else "scaled in"
        later = "" if policy.mode.writes else " once active"
        found = f"{what} now, max_replicas is {most}: it would be {would} to that{later}"
        fix = f"bounds.max_replicas: {now} or more, if they are needed"
        return Finding(workload=policy.workload, check="bounds", health=Health.WARN, found=found, fix=fix)
    if replicas.ceiling is not None and replicas.ceiling < most:
        found = f"the autoscaler holds {replicas.ceiling} at most, max_replicas is {most}: the floor stops there"
        fix = f"raise the autoscaler's own maximum, or bounds.max_replicas: {replicas.ceiling}"
        return Finding(workload=policy.workload, check="bounds", health=Health.WARN, found=found, fix=fix)
    return well("bounds", f"{least} to {most}, {now} now", policy.workload)


def _start(policy: WorkloadPolicy, measured: timedelta | None) -> Finding:
    if measured is None:
        return skipped("start time", "no Ready pod to measure it by", policy.workload)
    configured_s, measured_s = policy.start_time.total_seconds(), measured.total_seconds()
    found = f"its pods took {measured_s:.0f} s to Ready, start_time is {configured_s:.0f} s"
    if measured_s <= SLOWER_START * configured_s:
        return well("start time", found, policy.workload)
    fix = f"start_time: {measured_s:.0f}s, or orders come {measured_s - configured_s:.0f} s late"
    return Finding(workload=policy.workload, check="start time", health=Health.WARN, found=found, fix=fix)


def _template(policy: WorkloadPolicy, template: TemplateFacts | str) -> Iterator[Finding]:
    name = policy.workload
    if isinstance(template, str):
        for check in ("gpus", "readiness"):
            yield skipped(check, template, name)
        return
    yield _gpus(policy, template.gpus)
    if template.has_readiness_probe:
        yield well("readiness", "a probe tells when a pod serves", name)
    else:
        found = "no readiness probe: a pod counts as Ready, and gets requests, while its model loads"
        fix = "readinessProbe: {httpGet: {path: /health, port: 8000}} on the container that serves"
        yield Finding(workload=name, check="readiness", health=Health.WARN, found=found, fix=fix)


def _gpus(policy: WorkloadPolicy, asked: int) -> Finding:
    told = policy.profile.gpus
    if asked == told:
        return well("gpus", f"{told} a replica", policy.workload)
    found = f"its pods ask for {asked} GPUs a replica, profile {policy.profile.name!r} says {told}"
    fix = "a profile measured on that many GPUs (profile.gpus); the budget counts by it"
    return Finding(workload=policy.workload, check="gpus", health=Health.WARN, found=found, fix=fix)


def _drain(policy: WorkloadPolicy, drain: Drain | str) -> Finding:
    """Whether a pod that goes may finish what it serves."""
    name = policy.workload
    if isinstance(drain, str):
        return skipped("drain", drain, name)
    if drain.trouble:
        return Finding(workload=name, check="drain", health=Health.WARN, found=drain.trouble, fix=drain.fix)
    if not drain.has_pre_stop:
        found = f"{drain}; without a preStop hook requests that are still routed to an ending pod fail"
        fix = 'lifecycle: {preStop: {exec: {command: ["sleep", "15"]}}}, and terminationGracePeriodSeconds to match'
        return Finding(workload=name, check="drain", health=Health.WARN, found=found, fix=fix)
    return well("drain", str(drain), name)


def _rivals(policy: WorkloadPolicy, facts: ObjectFacts) -> Finding:
    name, check = policy.workload, "other autoscalers"
    if facts.rivals is None:
        return skipped(check, "HPAs may not be listed; the role headstart-rivals lets it tell of them", name)
    others = [each for each in facts.rivals if each != str(facts.floor)]
    if not others:
        beside = "" if facts.floor is None else f" but {facts.floor}"
        return well(check, f"none{beside} points at it", name)
    found = f"{', '.join(others)} writes the same replicas"
    if policy.mode is Mode.PUBLISH and len(others) == 1:
        return well(check, f"{others[0]} writes the replicas", name)
    # Side by side they can be compared: only what we write has two writers.
    health = Health.FAIL if policy.mode is Mode.ACTIVE else Health.WARN
    fixes = {Mode.ACTIVE: WAY_OUT, Mode.OBSERVE: f"before mode active: {WAY_OUT}"}
    fix = fixes.get(policy.mode, "keep one of them: two write over each other")
    return Finding(workload=name, check=check, health=health, found=found, fix=fix)


def _quota(policy: WorkloadPolicy, quota: int | str | None) -> Finding:
    if isinstance(quota, str):
        return skipped("gpu quota", quota, policy.workload)
    most = policy.bounds.max_replicas * policy.profile.gpus
    if quota is None:
        return well("gpu quota", "none in its namespace", policy.workload)
    if most <= quota:
        return well("gpu quota", f"{quota} GPUs in its namespace, max_replicas takes {most}", policy.workload)
    found = f"max_replicas takes {most} GPUs, its namespace may have {quota}: the rest would stay Pending"
    fix = f"bounds.max_replicas: {quota // policy.profile.gpus}, or a larger ResourceQuota"
    return Finding(workload=policy.workload, check="gpu quota", health=Health.WARN, found=found, fix=fix)
