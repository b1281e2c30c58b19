"""What the gateway costs, against nginx and against no proxy at all, in one run on one machine.

Streams of 32 events, 4 ms apart. CPU-ms a request are the proxy's own processor time; what a request takes longer than
without a proxy is measured at half of the gateway's own saturation. Figures of a quiet machine are in docs/gateway.md;
asserted are ratios, with room for a machine that is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

import pytest

from benchmarks.gateway_load import EVENTS, Timing, closed_loop, cpu_s, open_loop, resident_mib
from gateway_world import eventually, is_ready, listens, nginx_server
from inference.gateway.nginx import render_nginx
from inference.gateway.settings import read_settings
from servers import free_port

pytestmark = pytest.mark.server
REPOSITORY = Path(__file__).resolve().parents[2]
LOAD = Path(__file__).with_name("gateway_load.py")
REQUESTS = 600
SOAK = bool(os.environ.get("HEADSTART_SOAK"))
SOAK_REQUESTS = 1_000_000 if SOAK else 4_000
MOST_GROWTH_MIB = 16.0
"""What an allocator may keep of the largest moment so far."""

MOST_TIMES_NGINX = 60.0
"""Python against C: nginx needs some 0.3 ms a stream, of which most is the kernel's."""


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        yield running
    finally:
        running.kill()
        running.wait(timeout=30)
        assert running.stdout is not None
        running.stdout.close()


@contextlib.contextmanager
def gateway_process(folder: Path, replica_port: int) -> Iterator[tuple[int, int]]:
    """Its process id and its port."""
    port = free_port()
    backends = [{"url": f"http://127.0.0.1:{replica_port}", "model": "tiny"}]
    (folder / "backends.json").write_text(json.dumps({"kind": "Backends", "backends": backends}))
    (folder / "gateway.yaml").write_text(
        f"apiVersion: headstart/v1\nkind: Gateway\nbackends: {{file: backends.json}}\nlisten: {{port: {port}}}\n"
        "routing: {slots_per_capacity: 1000}\ndegradation: {enabled: false}\n"
    )
    arguments = [sys.executable, "-m", "inference", "gateway", "--config", str(folder / "gateway.yaml")]
    # The log is written, and nobody keeps it: a million lines are half a gigabyte.
    running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    try:
        eventually(lambda: is_ready(port), "the gateway does not start")
        yield running.pid, port
    finally:
        running.kill()
        running.wait(timeout=30)


def percentiles(timings: list[Timing]) -> tuple[float, float]:
    """P50 and P99 of the first byte, in milliseconds."""
    cuts = quantiles([each.first_s * 1000 for each in timings], n=100)
    return cuts[49], cuts[98]


def test_what_a_streamed_request_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with process(str(LOAD)) as replica, contextlib.ExitStack() as stack:
        assert replica.stdout is not None
        direct = int(replica.stdout.readline())
        gateway_pid, gateway = stack.enter_context(gateway_process(tmp_path, direct))
        nginx = free_port()
        site = render_nginx(
            read_settings(tmp_path / "gateway.yaml"), copies=[f"127.0.0.1:{direct}"], listen=f"127.0.0.1:{nginx}"
        )
        (tmp_path / "nginx").mkdir()
        stack.enter_context(nginx_server(tmp_path / "nginx", "master_process off;\n", site))
        eventually(lambda: listens(nginx), "nginx does not start")
        nginx_pid = int((tmp_path / "nginx" / "nginx.pid").read_text())

        cost_ms: dict[str, float] = {}
        for name, pid, port in (("nginx", nginx_pid, nginx), ("gateway", gateway_pid, gateway)):
            closed_loop(port, at_once=16, requests=64)
            before_s = cpu_s(pid)
            closed_loop(port, at_once=16, requests=REQUESTS)
            cost_ms[name] = (cpu_s(pid) - before_s) * 1000 / REQUESTS
        # A stream lasts 0.13 s of pauses alone: with 48 at once those would be the limit, some 300 a second.
        _, saturation_rps = closed_loop(gateway, at_once=128, requests=2 * REQUESTS)
        taken = {
            name: percentiles(open_loop(port, rate_rps=saturation_rps / 2, requests=REQUESTS))
            for name, port in (("direct", direct), ("nginx", nginx), ("gateway", gateway))
        }

    lines = [f"streams of {EVENTS} events; the gateway saturates at {saturation_rps:.0f} streams a second"]
    for name, (p50_ms, p99_ms) in taken.items():
        added = f"p50 {p50_ms - taken['direct'][0]:+.2f} ms, p99 {p99_ms - taken['direct'][1]:+.2f} ms"
        lines.append(f"{name:8} {cost_ms.get(name, 0.0):6.2f} CPU-ms a stream, first byte {added}")
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert cost_ms["gateway"] < MOST_TIMES_NGINX * max(cost_ms["nginx"], 0.1)


def test_memory_is_flat(tmp_path: Path) -> None:
    with process(str(LOAD), "1") as replica:
        assert replica.stdout is not None
        with gateway_process(tmp_path, int(replica.stdout.readline())) as (pid, port):
            closed_loop(port, at_once=32, requests=2_000)
            before_mib = resident_mib(pid)
            closed_loop(port, at_once=32, requests=SOAK_REQUESTS)
            grown_mib = resident_mib(pid) - before_mib
    assert grown_mib < MOST_GROWTH_MIB, f"{grown_mib:.1f} MiB more after {SOAK_REQUESTS} requests"
