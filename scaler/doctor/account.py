"""What a workload takes of the account, by its mode and kind, and the fix for each permission that is missing. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaler.adapters.kubernetes import Feature, FloorRef, Permission, TargetRef
from scaler.adapters.kubernetes.permissions import loss_without
from scaler.doctor.finding import FLEET, Finding, Health, skipped, well
from scaler.policy.types import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What is read, by which floor if by one, and what the account is to be good for there."""

    target: TargetRef
    features: frozenset[Feature]
    floor: FloorRef | None = None


def purpose_of(mode: Mode, target: TargetRef, floor: FloorRef | None, *, deletion_cost: bool) -> Purpose:
    """A workload's. Seeing rivals is left out: it is wanted by nobody who may not list them, and a check of its own."""
    match mode:
        case Mode.ACTIVE:
            marks = {Feature.DELETION_COST} if deletion_cost and target.kind == "Deployment" else set()
            features = {Feature.ACTIVE, Feature.EVENTS, *marks}
        case Mode.FLOOR if floor is not None:
            features = {floor.feature, Feature.EVENTS}
        case Mode.PUBLISH:
            features = {Feature.PUBLISH}
        case _:
            features = {Feature.OBSERVE}
    return Purpose(target=target, features=frozenset(features), floor=floor)


def placeholders_purpose(mode: Mode, target: TargetRef) -> Purpose:
    """A set of placeholder pods'."""
    writes = {Feature.PLACEHOLDERS, Feature.EVENTS} if mode is Mode.ACTIVE else {Feature.OBSERVE}
    return Purpose(target=target, features=frozenset(writes))


def judge_permissions(workload: str, missing: Sequence[Permission] | str, *, does: str) -> Iterator[Finding]:
    """What the account lacks to do what `does` says, each with the rule to add; a text: why that is not known."""
    if isinstance(missing, str):
        yield skipped("permissions", missing, workload)
        return
    if all(loss_without(each) for each in missing):
        yield well("permissions", f"suffice to {does}", workload)
    for each in missing:
        yield lacks(workload, each, loss=loss_without(each))


def judge_discovery(namespaces: Sequence[str], missing: Sequence[Permission]) -> Iterator[Finding]:
    """Whether Deployments can be found where annotations are looked for; there no permission is a courtesy."""
    if namespaces and not missing:
        yield well("permissions", f"suffice to find Deployments in {', '.join(namespaces)}")
    yield from (lacks(FLEET, each) for each in missing)


def lacks(workload: str, permission: Permission, *, loss: str = "") -> Finding:
    """One missing permission: a failure, unless all that is lost by it is `loss`."""
    kind, slash, part = permission.resource.partition("/")
    group, verb, where = permission.group, permission.verb, permission.namespace
    resource = f"{kind}.{group}{slash}{part}" if group else permission.resource
    named = f" --resource-name={permission.name}" if permission.name else ""
    make = f"kubectl -n {where} create role headstart-{verb} --verb={verb} --resource={resource}{named}"
    names = f', resourceNames: ["{permission.name}"]' if permission.name else ""
    rule = f'- {{apiGroups: ["{group}"], resources: ["{permission.resource}"]{names}, verbs: ["{verb}"]}}'
    found = f"may not {verb} {resource} in {where}{f': {loss}' if loss else ''}"
    return Finding(
        workload=workload,
        check="wanted permissions" if loss else "permissions",
        health=Health.WARN if loss else Health.FAIL,
        found=found,
        fix=f"{make}, and bind it; or add to a Role there: {rule}",
    )
