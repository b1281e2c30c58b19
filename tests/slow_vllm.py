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
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from inference.launch import environment, serve_arguments
from inference.variants import Variant, Weights
from servers import free_port

SUPPORT = Path(__file__).parent / "inference" / "vllm_env"
READY_WITHIN_S = 300.0
MIB_EACH = 1_300
OVERRIDES = (
    *("--load-format", "dummy"),
    "--enforce-eager",
    *("--kv-cache-memory-bytes", str(64 * 2**20)),
    *("--logits-processors", "slow_step:SlowStep"),
)
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "PYTHONPATH": str(SUPPORT),
    "SLOW_STEP_MS": "25",
    "SLOW_SEQ_MS": "1",
}


def variant(environment_folder: Path) -> Variant:
    """A tiny Qwen3-VL with random weights, and eight sequences at once."""
    return Variant(
        name="tiny",
        model=str(environment_folder / "models" / "tiny-qwen3-vl"),
        weights_gib=0.01,
        kv_kib_per_token=0.5,
        gpu_memory_gib=4,
        max_model_len=4_096,
        max_num_seqs=8,
        mm_processor_cache_gb=0.1,
        images_per_prompt=1,
        videos_per_prompt=0,
        max_image_tokens=256,
        shutdown_timeout_s=5,
        weights=Weights(host_path="/srv/models"),
    )


def available_mib() -> float:
    """Memory that can be had without swapping."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def fleet(environment_folder: Path, folder: Path, count: int) -> Iterator[Sequence[str]]:
    """So many servers, all ready, as base addresses. Raises `RuntimeError` with a log's end where one does not start."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_server(environment_folder, folder / f"server-{each}")) for each in range(count)]
        for url, process, log in servers:
            _wait(url, process, log)
        yield [url for url, _, _ in servers]


@contextlib.contextmanager
def _server(environment_folder: Path, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """One server in a process group of its own, none of which is left at the end."""
    folder.mkdir()
    port, one = free_port(), variant(environment_folder)
    guard = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
    arguments = (*serve_arguments(one, host="127.0.0.1", port=port), *OVERRIDES)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*guard, str(environment_folder / "bin" / "vllm"), "serve", *arguments],
            env={"PATH": os.environ["PATH"], **environment(one), "HOME": str(folder), **ENVIRONMENT},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}", process, folder / "log"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends:
        if (code := process.poll()) is not None:
            raise RuntimeError(f"vLLM ended with {code} before it was ready:\n{log.read_text()[-3_000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5.0).status_code == httpx.codes.OK:
                return
        time.sleep(0.25)
    raise RuntimeError(f"vLLM was not ready after {READY_WITHIN_S:.0f} s:\n{log.read_text()[-3_000:]}")
