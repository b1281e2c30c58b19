"""Judges what this machine and the settings say: data folder, models, HTTP, budget. Pure, over facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scaler.config import Config
from scaler.doctor.finding import FLEET, Finding, Health, well
from scaler.policy.types import Mode

LITTLE_SPACE_BYTES = 2**30
"""A fleet of 100 fills a gigabyte in two weeks of history and journal."""

NO_SPACE_BYTES = 100 * 2**20
"""The engine's memory of 2,000 workloads alone is 60 MB, and it is written beside the old one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What was found here; None where it could not be told."""

    data_error: str = ""
    """Why the data folder cannot be written; "" if it can."""
    free_bytes: int | None = None
    writer: int | None = None
    """Process that writes in the data folder now."""
    models_left_out: Mapping[str, str] = field(default_factory=dict)
    """Wanted models that cannot be used, with the reason."""
    missing_packages: tuple[str, ...] = ()
    """What a refit needs and is not installed."""
    token_error: str = ""
    """Why the token file of the HTTP page cannot be read."""
    token_open_to_all: bool = False
    """Whether everybody on this machine may read it."""


def judge_host(config: Config, facts: HostFacts) -> Iterator[Finding]:
    """The checks that need no server."""
    policies = config.fleet.workloads
    active = sum(policy.mode is Mode.ACTIVE for policy in policies)
    yield well("settings", f"{config.path}: {len(policies)} workloads, {active} active")
    yield _data_folder(config, facts)
    yield _space(facts)
    yield _writer(facts)
    yield _models(facts)
    yield _refits(facts)
    yield _http(config, facts)
    yield from judge_budget(config)


def _data_folder(config: Config, facts: HostFacts) -> Finding:
    if not facts.data_error:
        return well("data folder", f"{config.data_dir} can be written")
    fix = "set data_dir to a folder that this account may write, or mount a volume there"
    found = f"{config.data_dir}: {facts.data_error}; the daemon would not start"
    return Finding(workload=FLEET, check="data folder", health=Health.FAIL, found=found, fix=fix)


def _space(facts: HostFacts) -> Finding:
    if facts.free_bytes is None:
        return Finding(workload=FLEET, check="disk space", health=Health.SKIPPED, found="could not be read")
    found = f"{facts.free_bytes / 2**30:.1f} GiB free"
    if facts.free_bytes >= LITTLE_SPACE_BYTES:
        return well("disk space", found)
    health = Health.WARN if facts.free_bytes >= NO_SPACE_BYTES else Health.FAIL
    fix = "give the data folder a volume of 4 GB; without room scaling goes on from memory, and nothing is journalled"
    return Finding(workload=FLEET, check="disk space", health=health, found=found, fix=fix)


def _writer(facts: HostFacts) -> Finding:
    if facts.writer is None:
        return well("daemon", "none writes in this data folder here")
    return well("daemon", f"process {facts.writer} writes in this data folder; a second one would not start")


def _models(facts: HostFacts) -> Finding:
    if not facts.models_left_out:
        return well("models", "all that are wanted can be used")
    found = "; ".join(f"{model}: {why}" for model, why in sorted(facts.models_left_out.items()))
    if all("next refit" in why for why in facts.models_left_out.values()):
        return well("models", f"fitted ones come with the first refit ({', '.join(sorted(facts.models_left_out))})")
    fix = "headstart models list, headstart models rollback MODEL; meanwhile the other members forecast"
    return Finding(workload=FLEET, check="models", health=Health.WARN, found=found, fix=fix)


def _refits(facts: HostFacts) -> Finding:
    if not facts.missing_packages:
        return well("refits", "can run here")
    fix = "pip install 'headstart[train]'; meanwhile the members that need no fit forecast"
    found = f"not installed: {', '.join(facts.missing_packages)}"
    return Finding(workload=FLEET, check="refits", health=Health.WARN, found=found, fix=fix)


def _http(config: Config, facts: HostFacts) -> Finding:
    http, name = config.http, f"{config.http.host}:{config.http.port}"
    if http.token_file is None:
        return well("http", f"{name}, reachable from this machine alone")
    if facts.token_error:
        fix = "make http.token_file readable; meanwhile every page but the health pages is refused"
        found = f"{http.token_file}: {facts.token_error}"
        return Finding(workload=FLEET, check="http", health=Health.FAIL, found=found, fix=fix)
    if facts.token_open_to_all:
        found = f"{http.token_file} may be read by everybody on this machine"
        fix = f"chmod o-r {http.token_file}"
        return Finding(workload=FLEET, check="http", health=Health.WARN, found=found, fix=fix)
    return well("http", f"{name}, with a token")


def judge_budget(config: Config) -> Iterator[Finding]:
    """Whether the budget holds what the bounds promise."""
    gpus, policies = config.fleet.budget.gpus, config.fleet.workloads
    if gpus is None:
        yield well("budget", "none: each workload's max_replicas is the only limit")
        return
    least = sum(policy.bounds.min_replicas * policy.profile.gpus for policy in policies)
    most = sum(policy.bounds.max_replicas * policy.profile.gpus for policy in policies)
    if least > gpus:
        found = f"the minimums of all workloads take {least} GPUs, the budget has {gpus}"
        fix = "raise budget.gpus, or lower bounds.min_replicas"
        yield Finding(workload=FLEET, check="budget", health=Health.FAIL, found=found, fix=fix)
    else:
        yield well("budget", f"{gpus} GPUs; minimums take {least}, maximums would take {most}")
    for policy in policies:
        alone = policy.bounds.max_replicas * policy.profile.gpus
        if alone > gpus:
            found = f"max_replicas would take {alone} GPUs, the budget has {gpus}"
            fix = f"bounds.max_replicas of {gpus // policy.profile.gpus} says what can be reached"
            yield Finding(workload=policy.workload, check="budget", health=Health.WARN, found=found, fix=fix)
