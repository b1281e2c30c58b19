"""Judges what the cluster says of one workload: its object, its rivals, its limits, its starts. Pure, over facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from forecaster.types import Blind
from scaler.adapters.kubernetes import Permission, WorkloadPods
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
    grace_s: int
    pre_stop_s: int | None
    """Seconds that a preStop hook sleeps; None without one, or where it does something else."""
    has_pre_stop: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another autoscaler that points at the same object."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFacts:
    """What was found of one target. A text in place of a fact says why it is not known."""

    kind: str
    pods: WorkloadPods | Blind
    start_time: timedelta | None
    missing: tuple[Permission, ...]
    template: TemplateFacts | str
    rivals: tuple[Rival, ...] | str
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
        fix = "check target.kind, target.name and the namespace; permissions are checked below"
        yield Finding(workload=name, check="target", health=Health.FAIL, found=facts.pods.detail, fix=fix)
    else:
        replicas = facts.pods.replicas
        yield well("target", f"{facts.kind}: {replicas.desired} desired, {replicas.ready} Ready", name)
        yield _scale(policy, replicas)
        yield _start(policy, facts.start_time)
    yield from judge_permissions(policy, facts.missing)
    yield from _template(policy, facts.template)
    yield _rivals(policy, facts.rivals)
    yield _quota(policy, facts.gpu_quota)


def _scale(policy: WorkloadPolicy, replicas: ReplicaState) -> Finding:
    least, most, now = policy.bounds.min_replicas, policy.bounds.max_replicas, replicas.desired
    if now == 0 and least > 0:
        fix = "kubectl scale it up once; Headstart leaves what somebody scaled to zero alone"
        return Finding(workload=policy.workload, check="bounds", health=Health.WARN, found="it stands at 0", fix=fix)
    if now > most:
        found = f"{now} replicas now, max_replicas is {most}: it would be scaled in to that once active"
        fix = f"bounds.max_replicas: {now} or more, if they are needed"
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


def judge_permissions(policy: WorkloadPolicy, missing: Sequence[Permission]) -> Iterator[Finding]:
    """What the account lacks, each with the rule to add."""
    if not missing:
        does = "observe and scale" if policy.mode is Mode.ACTIVE else "observe"
        yield well("permissions", f"suffice to {does}", policy.workload)
    for each in missing:
        kind, slash, part = each.resource.partition("/")
        resource = f"{kind}.{each.group}{slash}{part}" if each.group else each.resource
        make = f"kubectl -n {each.namespace} create role headstart-{each.verb} --verb={each.verb} --resource={resource}"
        rule = f'- {{apiGroups: ["{each.group}"], resources: ["{each.resource}"], verbs: ["{each.verb}"]}}'
        found = f"may not {each.verb} {resource} in {each.namespace}"
        fix = f"{make}, and bind it; or add to a Role there: {rule}"
        yield Finding(workload=policy.workload, check="permissions", health=Health.FAIL, found=found, fix=fix)


def _template(policy: WorkloadPolicy, template: TemplateFacts | str) -> Iterator[Finding]:
    name = policy.workload
    if isinstance(template, str):
        for check in ("gpus", "readiness", "termination"):
            yield skipped(check, template, name)
        return
    yield _gpus(policy, template.gpus)
    if template.has_readiness_probe:
        yield well("readiness", "a probe tells when a pod serves", name)
    else:
        found = "no readiness probe: a pod counts as Ready, and gets requests, while its model loads"
        fix = "readinessProbe: {httpGet: {path: /health, port: 8000}} on the container that serves"
        yield Finding(workload=name, check="readiness", health=Health.WARN, found=found, fix=fix)
    yield _termination(policy, template)


def _gpus(policy: WorkloadPolicy, asked: int) -> Finding:
    told = policy.profile.gpus
    if asked == told:
        return well("gpus", f"{told} a replica", policy.workload)
    found = f"its pods ask for {asked} GPUs a replica, profile {policy.profile.name!r} says {told}"
    fix = "a profile measured on that many GPUs (profile.gpus); the budget counts by it"
    return Finding(workload=policy.workload, check="gpus", health=Health.WARN, found=found, fix=fix)


def _termination(policy: WorkloadPolicy, template: TemplateFacts) -> Finding:
    name = policy.workload
    if not template.has_pre_stop:
        found = f"no preStop hook, {template.grace_s} s of grace: requests still routed to an ending pod fail"
        fix = 'lifecycle: {preStop: {exec: {command: ["sleep", "15"]}}}, and terminationGracePeriodSeconds to match'
        return Finding(workload=name, check="termination", health=Health.WARN, found=found, fix=fix)
    if template.pre_stop_s is not None and template.pre_stop_s >= template.grace_s:
        found = f"preStop sleeps {template.pre_stop_s} s of {template.grace_s} s grace: none is left to end requests in"
        fix = f"terminationGracePeriodSeconds: {template.pre_stop_s + 60} or more (longest request and a margin)"
        return Finding(workload=name, check="termination", health=Health.FAIL, found=found, fix=fix)
    return well("termination", f"a preStop hook, {template.grace_s} s of grace", name)


def _rivals(policy: WorkloadPolicy, rivals: tuple[Rival, ...] | str) -> Finding:
    if isinstance(rivals, str):
        return skipped("other autoscalers", rivals, policy.workload)
    if not rivals:
        return well("other autoscalers", "none points at it", policy.workload)
    named = ", ".join(f"{each.kind} {each.name}" for each in rivals)
    namespace = policy.workload.partition("/")[0]
    first = rivals[0]
    fix = f"kubectl -n {namespace} delete {first.kind.lower()} {first.name} before mode: active; two would fight"
    # Side by side they can be compared: only an active workload has two writers.
    health = Health.FAIL if policy.mode is Mode.ACTIVE else Health.WARN
    found = f"{named} scales it too"
    return Finding(workload=policy.workload, check="other autoscalers", health=health, found=found, fix=fix)


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
