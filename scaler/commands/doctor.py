"""`doctor`: what works and what does not, each with its fix line. It asks and changes nothing.

It looks where a daemon would: the metrics that each signal would be read from, the bucket edges that latency targets
are judged at, the targets, and the account's permissions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scaler.commands.printing import Output, put_json, put_table
from scaler.config import API_VERSION, Config, read_config
from scaler.errors import CommandError

if TYPE_CHECKING:
    from forecaster.sources.prometheus import PrometheusSource, SignalCheck
    from forecaster.sources.selector import WorkloadSelector
    from scaler.adapters.kubernetes import FloorRef, KubernetesCluster, TargetRef
    from scaler.policy.latency import LatencyRule


class Health(StrEnum):
    """How one check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, what was found, and what to do about it (nothing, if it is well)."""

    workload: str
    check: str
    health: Health
    found: str
    fix: str = ""


def doctor(path: Path, *, workload: str | None, output: Output) -> None:
    """Check `workload`, or all of them; exit 1 if anything fails."""
    config, findings = _discovered(read_config(path))
    known = [policy.workload for policy in config.fleet.workloads]
    if workload is not None and workload not in known:
        raise CommandError(f"no workload {workload!r} in {path}; known: {', '.join(known)}")
    chosen = known if workload is None else [workload]
    findings = [*findings, *_signals(config, chosen), *_cluster(config, chosen)]
    if output is Output.JSON:
        put_json({"apiVersion": API_VERSION, "kind": "Findings", "items": [asdict(each) for each in findings]})
    else:
        rows = [(each.workload, each.check, each.health.value, each.found, each.fix) for each in findings]
        put_table(("WORKLOAD", "CHECK", "", "FOUND", "FIX"), rows)
    if any(each.health is Health.FAIL for each in findings):
        raise typer.Exit(1)


def _discovered(config: Config) -> tuple[Config, list[Finding]]:
    """The settings with the workloads that annotations name, and what is wrong with those that are left out."""
    if not config.discover.namespaces:
        return config, []
    from scaler.adapters.kubernetes.errors import KubernetesError
    from scaler.daemon.discovery import discovered

    try:
        found = discovered(config, known=())
    except KubernetesError as error:
        fix = "check kubernetes.kubeconfig, or run where a service account is mounted"
        return config, [Finding(workload="-", check="discover", health=Health.FAIL, found=str(error), fix=fix)]
    fix = "correct the annotation, or take it off"
    wrong = [Finding(workload="-", check="discover", health=Health.WARN, found=text, fix=fix) for text in found.told]
    return found.config, wrong


def _signals(config: Config, chosen: Sequence[str]) -> Iterator[Finding]:
    """Where each signal would come from."""
    from forecaster.errors import SourceError
    from forecaster.sources.prometheus import PrometheusSource
    from scaler.adapters.connections import connection_of, selectors_of

    selectors = [each for each in selectors_of(config) if each.workload in chosen]
    source = PrometheusSource(connection_of(config.prometheus))
    try:
        checks = source.check(selectors, now=datetime.now(UTC))
    except SourceError as error:
        fix = "check prometheus.url, its credentials and the network policy"
        yield Finding(workload="-", check="prometheus", health=Health.FAIL, found=str(error), fix=fix)
        return
    yield Finding(workload="-", check="prometheus", health=Health.OK, found="answers")
    for check in checks:
        yield _signal(check)
        policy = config.policy(check.workload)
        if policy is not None:
            yield from _targets_on_edges(check, policy.latency)
    yield from _requests(config, source, selectors)


_FIXES = {
    "required": "set selector.labels, selector.deployment_label or selector.demand_metric",
    "rules": "scrape one of them; meanwhile the rule that reads it stays silent",
    "reporting": "none needed: it is only reported, no rule reads it",
}
"""What to do about a signal without a metric, by `catalogue.Use`."""


def _signal(check: SignalCheck) -> Finding:
    from forecaster.sources.catalogue import USAGE, Use

    if check.signal in USAGE and not check.found:
        return Finding(workload=check.workload, check=check.signal, health=Health.OK, found="nothing tells it")
    if check.found:
        health, found, fix = Health.OK, f"{check.metric} by {check.reach}", ""
    else:
        required = check.use is Use.REQUIRED
        health, found = (Health.FAIL if required else Health.WARN), check.detail or "no live metric"
        fix = _FIXES[check.use]
    return Finding(workload=check.workload, check=check.signal, health=health, found=found, fix=fix)


def _requests(config: Config, source: PrometheusSource, selectors: Sequence[WorkloadSelector]) -> Iterator[Finding]:
    """Whether requests of the last minutes are those that the profiles were measured with."""
    from forecaster.errors import SourceError
    from scaler.adapters.request_shape import FIX, departure, held_text
    from scaler.adapters.usage import compared_now

    profiles = {each.workload: each.profile for each in config.fleet.workloads}
    profiles = {name: profile for name, profile in profiles.items() if any(one.tokens for one in profile.classes)}
    try:
        asked = [each for each in selectors if each.workload in profiles]
        found = compared_now(source, asked, profiles, now=datetime.now(UTC)) if asked else {}
    except SourceError as error:
        fix = "ask again; nothing depends on it"
        yield Finding(workload="-", check="requests", health=Health.WARN, found=str(error), fix=fix)
        return
    for (workload, name), amounts in found.items():
        gone = departure(profiles[workload], amounts)
        held = ", ".join(held_text(each) for each in amounts)
        yield Finding(
            workload=workload,
            check=f"requests of {name}",
            health=Health.WARN if gone else Health.OK,
            found=gone or held,
            fix=FIX if gone else "",
        )


def _targets_on_edges(check: SignalCheck, rule: LatencyRule) -> Iterator[Finding]:
    """A latency target between two bucket edges is judged at the lower one: say so before it surprises."""
    targets: set[float | None] = {getattr(slo, check.signal, None) for slo in rule.slos}
    for target_s in sorted(each for each in targets if each is not None):
        edge_s = check.judged_at(target_s) if check.edges_s else None
        if edge_s is not None and edge_s < target_s:
            found = f"the SLO of {target_s:g} s lies between buckets and is judged at {edge_s:g} s"
            fix = f"a histogram with an edge at {target_s:g}, or an SLO on an edge"
            yield Finding(workload=check.workload, check=check.signal, health=Health.WARN, found=found, fix=fix)


def _cluster(config: Config, chosen: Sequence[str]) -> Iterator[Finding]:
    """Whether the targets can be read, and scaled where they are active."""
    from forecaster.types import Blind
    from scaler.adapters.connections import access_of, floors_of, targets_of
    from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster
    from scaler.adapters.kubernetes.errors import KubernetesError
    from scaler.policy.types import Mode

    targets = {name: target for name, target in targets_of(config).items() if name in chosen}
    floors = {targets[name]: floor for name, floor in floors_of(config).items() if name in chosen}
    active = {policy.workload for policy in config.fleet.workloads if policy.mode is Mode.ACTIVE}
    try:
        api = ApiConnection(access_of(config))
    except KubernetesError as error:
        fix = "check kubernetes.kubeconfig, or run where a service account is mounted"
        yield Finding(workload="-", check="api server", health=Health.FAIL, found=str(error), fix=fix)
        return
    try:
        cluster = KubernetesCluster(api)
        states = cluster.read(list(targets.values()), now=datetime.now(UTC), floors=floors)
        for name, target in targets.items():
            state = states[target]
            if isinstance(state, Blind):
                fix = "check target.kind, target.name and the namespace; permissions are checked below"
                yield Finding(workload=name, check="target", health=Health.FAIL, found=state.detail, fix=fix)
            else:
                what = f"floor of {floors[target]}" if target in floors else target.kind
                found = f"{what}: {state.desired} desired, {state.ready} Ready"
                yield Finding(workload=name, check="target", health=Health.OK, found=found)
                yield from _drain(cluster, name, target)
            floor = floors.get(target)
            yield from _permissions(cluster, name, target, active=name in active, floor=floor)
        yield from _rivals(cluster, {name: target for name, target in targets.items() if name in active})
    except KubernetesError as error:
        fix = "check that the API server is reachable from here"
        yield Finding(workload="-", check="api server", health=Health.FAIL, found=str(error), fix=fix)
    finally:
        api.close()


def _rivals(cluster: KubernetesCluster, active: Mapping[str, TargetRef]) -> Iterator[Finding]:
    """Other autoscalers on what we scale; nothing is said where the account may not look."""
    from scaler.adapters.kubernetes.rivals import WAY_OUT

    found = cluster.rivals(list(active.values()))
    for name, target in active.items():
        if found.get(target):
            said = f"{', '.join(found[target])} writes the same replicas"
            yield Finding(workload=name, check="other autoscalers", health=Health.FAIL, found=said, fix=WAY_OUT)


def _drain(cluster: KubernetesCluster, name: str, target: TargetRef) -> Iterator[Finding]:
    """Whether a pod that is removed may finish what it serves; nothing to say while there is no pod."""
    from scaler.adapters.kubernetes.errors import KubernetesError

    try:
        drain = cluster.drain(target)
    except KubernetesError as error:
        fix = "ask again; permissions are checked below"
        yield Finding(workload=name, check="drain", health=Health.WARN, found=str(error), fix=fix)
        return
    if drain is None:
        return
    found = f"{drain.grace_s:g} s of grace: preStop {drain.pre_stop_s:g} s, drain {drain.shutdown_s or 0:g} s"
    health = Health.WARN if drain.trouble else Health.OK
    fix = drain.fix if drain.trouble else ""
    yield Finding(workload=name, check="drain", health=health, found=drain.trouble or found, fix=fix)


def _permissions(
    cluster: KubernetesCluster, name: str, target: TargetRef, *, active: bool, floor: FloorRef | None
) -> Iterator[Finding]:
    missing = cluster.missing_permissions([target], active=active, floors={target: floor} if floor else {})
    if not missing:
        does = "observe and scale" if active else "observe and set the floor" if floor else "observe"
        yield Finding(workload=name, check="permissions", health=Health.OK, found=f"suffice to {does}")
    for each in missing:
        kind, slash, part = each.resource.partition("/")
        resource = f"{kind}.{each.group}{slash}{part}" if each.group else each.resource
        fix = f"kubectl -n {each.namespace} create role headstart-{each.verb} --verb={each.verb} --resource={resource}"
        found = f"may not {each.verb} {resource} in {each.namespace}"
        yield Finding(workload=name, check="permissions", health=Health.FAIL, found=found, fix=f"{fix}, and bind it")
