"""Judges pools by what their front door tells: classes that nobody counts, and spill-over that leads nowhere. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from forecaster.types import Blind, Reading
from scaler.config import Config
from scaler.doctor.finding import Finding, Health, well
from scaler.policy.decide import WorkloadPolicy

CHECK = "pools"

Demand = Mapping[str, Mapping[str, Reading]]
"""What was read of each workload, by request class."""


def judge_pools(config: Config, demand: Demand, chosen: Collection[str]) -> Iterator[Finding]:
    """Every chosen workload that takes some classes only, or spills over."""
    for policy in (each for each in config.fleet.workloads if each.workload in chosen):
        seen = {name for name, reading in demand.get(policy.workload, {}).items() if not isinstance(reading, Blind)}
        named = config.selectors[policy.workload].classes
        findings = [*_uncounted(policy, named, seen), *_spill(config, policy, seen.union(named))]
        yield from findings
        if not findings and (named or policy.spills_to):
            behind = f", and spills over to {policy.spills_to}" if policy.spills_to else ""
            yield well(CHECK, f"takes {', '.join(sorted(seen.union(named))) or 'every class'}{behind}", policy.workload)


def _uncounted(policy: WorkloadPolicy, named: Collection[str], seen: Collection[str]) -> Iterator[Finding]:
    """Classes in the settings of which the front door shows nothing, while it shows others: a name that it has not."""
    missing = [name for name in named if name not in seen]
    if missing and seen:
        found = f"the front door counts no class {', '.join(missing)}; it counts {', '.join(sorted(seen))}"
        fix = "write the classes as the gateway's settings name them (classes[].name)"
        yield Finding(workload=policy.workload, check=CHECK, health=Health.WARN, found=found, fix=fix)


def _spill(config: Config, policy: WorkloadPolicy, classes: Collection[str]) -> Iterator[Finding]:
    """A receiver that is not there, or whose profile does not say what the classes that come cost it."""
    if policy.spills_to is None:
        return
    receiver = config.policy(policy.spills_to)
    if receiver is None:
        found = f"spills_to names {policy.spills_to}, which is no workload: what does not fit is made ready for nowhere"
        fix = "list it under workloads, or annotate its Deployment (discover.namespaces)"
        yield Finding(workload=policy.workload, check=CHECK, health=Health.FAIL, found=found, fix=fix)
        return
    known = {each.name for each in receiver.profile.classes}
    missing = sorted(name for name in classes if name not in known)
    if missing:
        found = f"{receiver.workload}'s profile has no class {', '.join(missing)}: it counts as its slowest there"
        fix = f"measure it there (headstart profile), and add it to the profile {receiver.profile.name}"
        yield Finding(workload=policy.workload, check=CHECK, health=Health.WARN, found=found, fix=fix)
