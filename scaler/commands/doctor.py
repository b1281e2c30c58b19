"""`doctor`: what works and what does not, each with its fix line. It asks and changes nothing.

It looks where a daemon would: this machine, the metrics that each signal would be read from, the targets, and the
account's permissions. A server that does not answer is one finding, and everything else is looked at all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scaler.commands.printing import Output, put_json, put_table
from scaler.config import API_VERSION, Config
from scaler.errors import CommandError

if TYPE_CHECKING:
    from forecaster.sources.prometheus import PrometheusSource
    from forecaster.sources.selector import WorkloadSelector
    from forecaster.types import Reading, SeriesKey
    from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster
    from scaler.doctor.finding import Finding


def doctor(path: Path, *, workload: str | None, output: Output) -> None:
    """Check `workload`, or all of them; exit 1 if anything fails."""
    from scaler.adapters.settings import read_settings
    from scaler.doctor.finding import Health

    config, findings = _discovered(read_settings(path))
    known = [policy.workload for policy in config.fleet.workloads]
    if workload is not None and workload not in known:
        raise CommandError(f"no workload {workload!r} in {path}; known: {', '.join(known)}")
    findings = [*findings, *examined(config, known if workload is None else [workload])]
    if output is Output.JSON:
        put_json({"apiVersion": API_VERSION, "kind": "Findings", "items": [asdict(each) for each in findings]})
    else:
        put_findings(findings)
    if any(each.health is Health.FAIL for each in findings):
        raise typer.Exit(1)


def _discovered(config: Config) -> tuple[Config, list[Finding]]:
    """The settings with the workloads that annotations name, and what is wrong with those that are left out."""
    if not config.discover.namespaces:
        return config, []
    from scaler.adapters.kubernetes.errors import KubernetesError
    from scaler.daemon.discovery import as_a_start_would
    from scaler.doctor.finding import FLEET, Finding, Health

    try:
        found = as_a_start_would(config)
    except KubernetesError as error:
        fix = "check kubernetes.kubeconfig, or run where a service account is mounted"
        return config, [Finding(workload=FLEET, check="discover", health=Health.FAIL, found=str(error), fix=fix)]
    fix = "correct the annotation, or take it off; what may not be searched stands under permissions"
    wrong = [Finding(workload=FLEET, check="discover", health=Health.WARN, found=text, fix=fix) for text in found.told]
    return found.config, wrong


def put_findings(findings: Sequence[Finding]) -> None:
    """A table, a line a check."""
    rows = [(each.workload, each.check, each.health.value, each.found, each.fix) for each in findings]
    put_table(("WORKLOAD", "CHECK", "", "FOUND", "FIX"), rows)


@dataclass(slots=True)
class _Seen:
    """What one server said and a check of another one needs: demand by workload and class, Ready pods by workload."""

    demand: dict[str, dict[str, Reading]] = field(default_factory=lambda: defaultdict(dict))
    ready: dict[str, int] = field(default_factory=dict)


def examined(config: Config, chosen: Sequence[str], *, host: bool = True) -> list[Finding]:
    """Every check of the chosen workloads; without `host` only those that ask a server."""
    seen = _Seen()
    return [
        *(_host(config) if host else ()),
        *_metrics(config, chosen, seen),
        *_cluster(config, chosen, seen),
        *_profiles(config, chosen, seen),
    ]


def _host(config: Config) -> Iterator[Finding]:
    from scaler.daemon.derived import MODELS_FOLDER
    from scaler.doctor.host import judge_host
    from scaler.doctor.look_host import look_host

    yield from judge_host(config, look_host(config, models_folder=config.data_dir / MODELS_FOLDER))


# ── The metrics server ────────────────────────────────────────────────────────────────────────────────────────


def _metrics(config: Config, chosen: Sequence[str], seen: _Seen) -> Iterator[Finding]:
    from forecaster.errors import SourceError
    from forecaster.sources.prometheus import PrometheusSource
    from scaler.adapters.connections import connection_of, selectors_of
    from scaler.doctor.finding import FLEET, Finding, Health
    from scaler.doctor.look_metrics import look_server
    from scaler.doctor.metrics import judge_server

    connection = connection_of(config.prometheus)
    source = PrometheusSource(connection)
    try:
        yield from judge_server(config, look_server(connection))
        yield from _signals(config, source, chosen, seen)
    except SourceError as error:
        fix = "check prometheus.url, its credentials and the network policy"
        yield Finding(workload=FLEET, check="prometheus", health=Health.FAIL, found=str(error), fix=fix)
        return
    yield from _requests(config, source, [each for each in selectors_of(config) if each.workload in chosen])


def _signals(config: Config, source: PrometheusSource, chosen: Sequence[str], seen: _Seen) -> Iterator[Finding]:
    """Where each signal would come from, and what demand is now. All selectors are asked: they may meet."""
    from forecaster.sources.plan import DEMAND
    from scaler.adapters.connections import selectors_of
    from scaler.doctor.metrics import judge_demand, judge_edges, judge_signal
    from scaler.doctor.pools import judge_pools

    selectors, now = selectors_of(config), datetime.now(UTC)
    checks = [check for check in source.check(selectors, now=now) if check.workload in chosen]
    for check in checks:
        yield judge_signal(check)
        policy = config.policy(check.workload)
        if policy is not None:
            yield from judge_edges(check, policy)
    readings = source.read(selectors, now=now).values
    live = {check.workload for check in checks if check.signal == DEMAND and check.found}
    for key, reading in _demand_of(readings, live):
        seen.demand[key.workload][key.request_class] = reading
    for workload, by_class in seen.demand.items():
        yield from judge_demand(workload, tuple(by_class.values()))
    yield from judge_pools(config, seen.demand, chosen)


def _demand_of(readings: Mapping[SeriesKey, Reading], live: set[str]) -> Iterator[tuple[SeriesKey, Reading]]:
    from forecaster.sources.plan import DEMAND

    return ((key, each) for key, each in readings.items() if key.signal == DEMAND and key.workload in live)


def _requests(config: Config, source: PrometheusSource, selectors: Sequence[WorkloadSelector]) -> Iterator[Finding]:
    """Whether requests of the last minutes are those that the profiles were measured with."""
    from forecaster.errors import SourceError
    from scaler.adapters.request_shape import FIX, departure, held_text
    from scaler.adapters.usage import compared_now
    from scaler.doctor.finding import FLEET, Finding, Health

    profiles = {each.workload: each.profile for each in config.fleet.workloads}
    profiles = {name: profile for name, profile in profiles.items() if any(one.tokens for one in profile.classes)}
    try:
        asked = [each for each in selectors if each.workload in profiles]
        found = compared_now(source, asked, profiles, now=datetime.now(UTC)) if asked else {}
    except SourceError as error:
        fix = "ask again; nothing depends on it"
        yield Finding(workload=FLEET, check="requests", health=Health.WARN, found=str(error), fix=fix)
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


# ── The cluster ───────────────────────────────────────────────────────────────────────────────────────────────


def _cluster(config: Config, chosen: Sequence[str], seen: _Seen) -> Iterator[Finding]:
    """Whether the targets can be read, and written as their modes want it."""
    if config.local.servers:
        from scaler.doctor.machine import judge_machine

        yield from judge_machine(config)
        return
    from scaler.adapters.connections import access_of
    from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster
    from scaler.adapters.kubernetes.errors import KubernetesError
    from scaler.doctor.finding import FLEET, Finding, Health
    from scaler.doctor.look_cluster import look_version
    from scaler.doctor.objects import judge_version

    try:
        api = ApiConnection(access_of(config), may_write=lambda: False)
    except KubernetesError as error:
        fix = "check kubernetes.kubeconfig, or run where a service account is mounted"
        yield Finding(workload=FLEET, check="api server", health=Health.FAIL, found=str(error), fix=fix)
        return
    cluster = KubernetesCluster(api)
    try:
        yield judge_version(look_version(api))
        yield from _account(config, cluster, api)
        yield from _objects(config, chosen, seen, cluster, api)
        yield from _placeholders(config, chosen, cluster, api)
    except KubernetesError as error:
        fix = "check that the API server is reachable from here, and that its token is valid"
        yield Finding(workload=FLEET, check="api server", health=Health.FAIL, found=str(error), fix=fix)
    finally:
        api.close()


def _account(config: Config, cluster: KubernetesCluster, api: ApiConnection) -> Iterator[Finding]:
    """What belongs to no workload: where annotations are looked for, and the lease."""
    from scaler.adapters.connections import lease_of
    from scaler.doctor.account import judge_discovery
    from scaler.doctor.lease import judge_lease
    from scaler.doctor.look_cluster import look_discovery, look_lease

    namespaces = config.discover.namespaces
    yield from judge_discovery(namespaces, look_discovery(cluster, namespaces))
    lease = lease_of(config)
    if lease is not None:
        yield from judge_lease(look_lease(cluster, api, lease))


def _objects(
    config: Config, chosen: Sequence[str], seen: _Seen, cluster: KubernetesCluster, api: ApiConnection
) -> Iterator[Finding]:
    from forecaster.types import Blind
    from scaler.adapters.connections import floors_of, targets_of
    from scaler.doctor.account import purpose_of
    from scaler.doctor.look_cluster import look_objects
    from scaler.doctor.objects import judge_object

    targets, floors = targets_of(config), floors_of(config)
    policies = {policy.workload: policy for policy in config.fleet.workloads if policy.workload in chosen}
    purposes = {
        name: purpose_of(policy.mode, targets[name], floors.get(name), deletion_cost=config.deletion_cost)
        for name, policy in policies.items()
    }
    for name, facts in look_objects(cluster, api, purposes, now=datetime.now(UTC)).items():
        # Above a floor more may serve than are counted, and a profile is judged by all that serve.
        if not isinstance(facts.pods, Blind) and facts.pods.replicas.taken == facts.pods.replicas.desired:
            seen.ready[name] = facts.pods.replicas.ready
        yield from judge_object(policies[name], facts)


def _placeholders(
    config: Config, chosen: Sequence[str], cluster: KubernetesCluster, api: ApiConnection
) -> Iterator[Finding]:
    """The placeholder pods that are for the chosen workloads; those without a list are for all."""
    from scaler.adapters.connections import placeholder_targets_of
    from scaler.doctor.account import placeholders_purpose
    from scaler.doctor.look_cluster import look_placeholders
    from scaler.doctor.placeholders import judge_placeholders

    targets = placeholder_targets_of(config)
    rules = {
        rule.placeholder: rule
        for rule in config.placeholders
        if not rule.workloads or not set(rule.workloads).isdisjoint(chosen)
    }
    purposes = {name: placeholders_purpose(rule.mode, targets[name]) for name, rule in rules.items()}
    for name, facts in look_placeholders(cluster, api, purposes, now=datetime.now(UTC)).items():
        yield from judge_placeholders(rules[name], facts)


def _profiles(config: Config, chosen: Sequence[str], seen: _Seen) -> Iterator[Finding]:
    """Whether profiles are plausible beside what replicas serve now."""
    from forecaster.types import value_of
    from scaler.doctor.metrics import judge_profile

    for name in chosen:
        policy = config.policy(name)
        demand = {of: value for of, each in seen.demand.get(name, {}).items() if (value := value_of(each)) is not None}
        if policy is not None:
            yield from judge_profile(policy, demand, seen.ready.get(name, 0))
