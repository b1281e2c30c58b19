"""Servers on this machine: whether they could be started, and whether the gateways can be asked about them.

It looks up programs and asks gateways once; it starts nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from scaler.adapters.local_vllm.asking import in_flight
from scaler.config import Config
from scaler.config.local import ServerEntry
from scaler.doctor.finding import FLEET, Finding, Health, well


def judge_machine(config: Config) -> Iterator[Finding]:
    """A finding for each workload's program, and for each gateway."""
    home = config.path.parent.resolve()
    for entry in config.local.servers:
        yield _program(entry, home)
    if not config.local.gateways:
        fix = "name the gateways in local.gateways, so that a server is idle before it is asked to end"
        found = "no gateway can be asked what a server has in flight: one that goes is given 15 s"
        yield Finding(workload=FLEET, check="gateways", health=Health.WARN, found=found, fix=fix)
    for url in config.local.gateways:
        answered = in_flight(url)
        if answered is None:
            fix = "start it, or correct local.gateways; meanwhile each scale-in takes the whole grace"
            found = f"{url}/backends does not answer"
            yield Finding(workload=FLEET, check="gateways", health=Health.WARN, found=found, fix=fix)
        else:
            yield well("gateways", f"{url} knows {len(answered)} servers")


def _program(entry: ServerEntry, home: Path) -> Finding:
    word = entry.command[0]
    # As the kernel would find it from the settings file's folder: a name on the path, or a path from there.
    path = entry.environment.get("PATH", os.environ.get("PATH"))
    found = shutil.which(str(home / word) if "/" in word else word, path=path)
    if found is not None:
        return well("server program", found, entry.workload)
    fix = "install it, or name it in local.servers[].command by its path"
    return Finding(
        workload=entry.workload,
        check="server program",
        health=Health.FAIL,
        found=f"no program {word} from {home}",
        fix=fix,
    )
