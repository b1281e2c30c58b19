"""Judges placeholder pods: whether they can be read and scaled, and hold as many GPUs as told. Pure, over facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forecaster.types import Blind
from scaler.adapters.kubernetes import Permission
from scaler.doctor.account import judge_permissions
from scaler.doctor.finding import Finding, Health, skipped, well
from scaler.policy.placeholders import PlaceholderRule
from scaler.policy.types import Mode, ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderFacts:
    """What was found of one set of placeholder pods. A text in place of a fact says why it is not known."""

    kind: str
    replicas: ReplicaState | Blind
    missing: tuple[Permission, ...] | str
    gpus: int | str


def judge_placeholders(rule: PlaceholderRule, facts: PlaceholderFacts) -> Iterator[Finding]:
    """Everything about one set of them; in the place of the workload stands its own name."""
    name, replicas = rule.placeholder, facts.replicas
    if isinstance(replicas, Blind):
        fix = "apply deploy/placeholders.yaml there, or correct placeholders[].target; meanwhile they stay as they are"
        yield Finding(workload=name, check="placeholders", health=Health.FAIL, found=replicas.detail, fix=fix)
    else:
        found = f"{facts.kind}: {replicas.desired} of at most {rule.max_replicas}, {replicas.ready} Ready"
        yield well("placeholders", found, name)
    does = "scale placeholders" if rule.mode is Mode.ACTIVE else "observe placeholders"
    yield from judge_permissions(name, facts.missing, does=does)
    yield _gpus(rule, facts.gpus)


def _gpus(rule: PlaceholderRule, asked: int | str) -> Finding:
    if isinstance(asked, str):
        return skipped("gpus", asked, rule.placeholder)
    if asked == rule.gpus_per_replica:
        return well("gpus", f"{asked} a placeholder", rule.placeholder)
    found = f"its pods ask for {asked} GPUs each, gpus_per_replica says {rule.gpus_per_replica}"
    fix = f"placeholders[].gpus_per_replica: {asked}" if asked else "nvidia.com/gpu in the limits of its container"
    return Finding(workload=rule.placeholder, check="gpus", health=Health.WARN, found=found, fix=fix)
