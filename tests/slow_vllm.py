"""Real vLLM servers without a GPU, whose steps are as slow as one's: capacities of several add up on two cores.

Holds no test. 25 ms a step and 1 ms a sequence, 8 sequences at once, 131,072 tokens of KV cache. What differs from a
GPU pod is `OVERRIDES` and `ENVIRONMENT`; everything else is the product's own rendering.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference.launch import environment, serve_arguments
from inference.variants import Variant, Weights
from servers import free_port

BUILT = Path(__file__).parents[1] / ".venv-vllm"
SUPPORT = Path(__file__).parent / "inference" / "vllm_env"
HOST = "127.0.0.1"
READY_WITHIN_S = 600.0
"""20 s of one on a quiet machine, 150 s of four on one with twenty other programs to run."""
MIB_EACH = 1_300
OVERRIDES = (
    # There are no weight files: vLLM fills the tiny model with random numbers.
    *("--load-format", "dummy"),
    # Compiling kernels takes a minute and saves nothing on two layers.
    "--enforce-eager",
    # In place of a share of GPU memory: 64 MiB of KV cache.
    *("--kv-cache-memory-bytes", str(64 * 2**20)),
    # Steps as slow as a GPU's, on any machine.
    *("--logits-processors", "slow_step:SlowStep"),
)
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # One process a server: three of them share two cores.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # What a model is found to be, kept: each start would load vLLM once more to find it out, 7 s of CPU.
    "VLLM_CACHE_ROOT": str(BUILT.parent / ".tools" / "vllm-cache"),
    "PYTHONPATH": str(SUPPORT),
    "SLOW_STEP_MS": "25",
    "SLOW_SEQ_MS": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One that was started; `wait_until_ready` says when it serves."""

    url: str
    process: subprocess.Popen[bytes]
    """Leads a process group of its own."""
    log: Path


def built() -> Path:
    """The folder with a CPU build of vLLM and a tiny Qwen3-VL; without one the test is skipped, and says why."""
    # The stamp is written last: without it the build is missing or was interrupted.
    if (BUILT / "headstart.stamp").is_file():
        return BUILT
    why = BUILT / "headstart.missing"
    told = (
        why.read_text(encoding="utf-8").strip() if why.is_file() else "make vllm-env builds it (2.5 GB, some minutes)"
    )
    pytest.skip(f"no CPU build of vLLM in .venv-vllm: {told}")


def need_room(servers: int) -> None:
    """Skip where so many servers do not fit into free memory."""
    if available_mib() < servers * MIB_EACH:
        pytest.skip(f"{servers} vLLM servers need {servers * MIB_EACH} MiB of memory, {available_mib():.0f} are free")


def available_mib() -> float:
    """Memory that can be had without swapping."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 1024


def variant(environment_folder: Path, **changes: Any) -> Variant:
    """A tiny Qwen3-VL with random weights, and eight sequences at once."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "model": str(environment_folder / "models" / "tiny-qwen3-vl"),
        "weights_gib": 0.01,
        "kv_kib_per_token": 0.5,
        "gpu_memory_gib": 4,
        "max_model_len": 4_096,
        "max_num_seqs": 8,
        "mm_processor_cache_gb": 0.1,
        "images_per_prompt": 1,
        "videos_per_prompt": 0,
        "max_image_tokens": 256,
        "shutdown_timeout_s": 5,
        "weights": Weights(host_path="/srv/models"),
    }
    return Variant(**settings | changes)


@contextlib.contextmanager
def fleet(environment_folder: Path, folder: Path, variants: int | Sequence[Variant]) -> Iterator[Sequence[str]]:
    """A server of each variant, or so many of `variant()`, all ready, as base addresses."""
    wanted = [variant(environment_folder)] * variants if isinstance(variants, int) else list(variants)
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(server(environment_folder, folder / f"server-{number}", one))
            for number, one in enumerate(wanted)
        ]
        for each in servers:
            wait_until_ready(each)
        yield [each.url for each in servers]


@contextlib.contextmanager
def server(
    environment_folder: Path, folder: Path, one: Variant, *, settings: Mapping[str, str] = ENVIRONMENT
) -> Iterator[Server]:
    """One server, begun; whatever is left of its process group at the end is killed.

    Should the test run itself be killed, the kernel passes SIGTERM on to the server (setpriv), which takes its
    engine along.
    """
    folder.mkdir(exist_ok=True)
    port, log = free_port(), folder / "log"
    guard = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
    arguments = (*serve_arguments(one, host=HOST, port=port), *OVERRIDES)
    with log.open("w") as out:
        process = subprocess.Popen(
            [*guard, str(environment_folder / "bin" / "vllm"), "serve", *arguments],
            env={"PATH": os.environ["PATH"], **environment(one), "HOME": str(folder), **settings},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(url=f"http://{HOST}:{port}", process=process, log=log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def wait_until_ready(started: Server) -> float:
    """Seconds until /health answers 200; fails with the log's end if the server dies or takes too long."""
    begun = time.monotonic()
    while time.monotonic() - begun < READY_WITHIN_S:
        if (code := started.process.poll()) is not None:
            if code == -signal.SIGILL:
                pytest.skip("this processor lacks instructions that vLLM's CPU build uses")
            pytest.fail(f"vLLM ended with {code} before it was ready:\n{started.log.read_text()[-4_000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{started.url}/health", timeout=5.0, verify=False).status_code == httpx.codes.OK:
                return time.monotonic() - begun
        time.sleep(0.25)
    pytest.fail(f"vLLM was not ready after {READY_WITHIN_S:.0f} s:\n{started.log.read_text()[-4_000:]}")
