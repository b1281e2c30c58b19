"""Parts of the end-to-end stories: ports, a gateway, room. Holds no test."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scaler.rehearsal.recipe import Plan, Ports
from servers import free_port

ROOT = Path(__file__).resolve().parents[1]
SERVER_MIB = 1_300
"""One server under load, and a share of what is around it."""


def free_ports() -> Ports:
    """Ports that nobody listens on now."""
    return Ports(servers=free_port(), gateway=free_port(), prometheus=free_port(), daemon=free_port())


def need_room(plan: Plan) -> None:
    """Skip where the plan's servers do not fit into free memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free_mib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) // 1024
    needed = (plan.max_replicas + 1) * SERVER_MIB
    if free_mib < needed:
        pytest.skip(f"{plan.max_replicas} servers and what is around them need {needed} MiB, {free_mib} are free")


def gateway() -> Sequence[str] | None:
    """The product's, or where this tree has none a small one that does what these stories need."""
    if importlib.util.find_spec("inference.gateway") is not None:
        return None
    return (sys.executable, str(ROOT / "tests" / "stand_in_gateway.py"))


def whole() -> bool:
    """Whether the long stories are told too (`make e2e`)."""
    return os.environ.get("HEADSTART_E2E") == "full"
