"""A real vLLM, started with the rendered arguments, serves, is measured, and drains.

One server lives through one story: ready, a text, the same text again, a picture, a video, a scrape, SIGTERM with a request in
flight, gone. The fixture lives it once and writes down what it saw; each test looks at one thing.

What differs from a GPU pod is `slow_vllm.OVERRIDES` and `slow_vllm.ENVIRONMENT`, and nothing else.
"""

from __future__ import annotations

import base64
import contextlib
import math
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from forecaster.sources.catalogue import CATALOGUE, Kind, Origin, Signal
from inference.launch import PIXELS_PER_IMAGE_TOKEN
from slow_vllm import ENVIRONMENT, Server, available_mib, server, variant, wait_until_ready

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

FREE_MEMORY_MIB = 3_000
TWO_PROCESSES = {name: value for name, value in ENVIRONMENT.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
"""The API server and its engine apart, as in a pod."""

ENGINE_SIGNALS = [
    signal for signal in CATALOGUE if any(candidate.origin is Origin.ENGINE for candidate in signal.candidates)
]

SMALLER_TOKENS = 64
"""Asked for by one request, of a picture that the variant shows in 256."""

LONG_ANSWER_TOKENS = 160
"""At 26 ms a step it takes over 4 s: SIGTERM comes into the middle of it."""


@dataclass(kw_only=True)
class Life:
    """What was seen of one server from start to end."""

    ready_s: float = 0.0
    memory_mib: float = 0.0
    models: Any = None
    text: Any = None
    text_again: Any = None
    picture: Any = None
    smaller_picture: Any = None
    video: Any = None
    load: Any = None
    metrics: str = ""
    health_while_serving: int = 0
    in_flight_at_sigterm: Any = None
    exit_code: int | None = None
    exit_s: float = 0.0
    left_over: list[int] = field(default_factory=list)
    log: str = ""


@pytest.fixture(scope="module")
def life(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Life:
    if available_mib() < FREE_MEMORY_MIB:
        pytest.skip(f"a real vLLM needs {FREE_MEMORY_MIB} MiB of free memory")
    tiny = variant(
        vllm_environment,
        images_per_prompt=2,
        videos_per_prompt=1,
        max_video_tokens=512,
        shutdown_timeout_s=30,
        trust_request_mm_kwargs=True,
    )
    with server(vllm_environment, tmp_path_factory.mktemp("vllm"), tiny, settings=TWO_PROCESSES) as started:
        seen = Life()
        live(seen, started, video_url=frames_url(vllm_environment))
        seen.log = started.log.read_text()
        return seen


def live(seen: Life, started: Server, *, video_url: str) -> None:
    with httpx.Client(base_url=started.url, timeout=60) as client:
        seen.ready_s = wait_until_ready(started)
        seen.models = client.get("/v1/models").json()
        words = "import the class and return its path " * 20
        seen.text = ask(client, words, tokens=8)
        seen.text_again = ask(client, words, tokens=8)
        picture = {"type": "image_url", "image_url": {"url": png_url(width=1920, height=1080)}}
        seen.picture = ask(client, [picture, {"type": "text", "text": "what is this"}], tokens=8)
        smaller = {"images_kwargs": {"size": {"longest_edge": SMALLER_TOKENS * PIXELS_PER_IMAGE_TOKEN}}}
        question = [picture, {"type": "text", "text": "what is this"}]
        seen.smaller_picture = ask(client, question, tokens=8, mm_processor_kwargs=smaller)
        video = {"type": "video_url", "video_url": {"url": video_url}}
        seen.video = ask(client, [video, {"type": "text", "text": "what happens"}], tokens=8)
        seen.health_while_serving = client.get("/health").status_code
        seen.metrics = client.get("/metrics").text
        seen.load = client.get("/load").json()
        seen.memory_mib = resident_mib(started.process.pid)
        drain(seen, started.process, client)


def drain(seen: Life, server: subprocess.Popen[bytes], client: httpx.Client) -> None:
    """SIGTERM while a long answer is being written."""

    def write_long_answer() -> None:
        try:
            seen.in_flight_at_sigterm = ask(client, "go on", tokens=LONG_ANSWER_TOKENS)
        except httpx.HTTPError as error:
            seen.in_flight_at_sigterm = repr(error)

    writer = threading.Thread(target=write_long_answer)
    writer.start()
    wait_for_running(client)
    server.send_signal(signal.SIGTERM)
    asked_to_go = time.monotonic()
    writer.join(timeout=60)
    with contextlib.suppress(subprocess.TimeoutExpired):
        seen.exit_code = server.wait(timeout=60)
    seen.exit_s = time.monotonic() - asked_to_go
    # Its resource tracker notices a closed pipe and goes by itself, a moment later.
    deadline = time.monotonic() + 10
    while (left_over := members_of_group(server.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    seen.left_over = left_over


def wait_for_running(client: httpx.Client) -> None:
    """Return once the engine computes a request."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if sample(client.get("/metrics").text, "vllm:num_requests_running") >= 1.0:
            return
        time.sleep(0.05)
    pytest.fail("the long request never ran")


def ask(client: httpx.Client, content: object, *, tokens: int, **more: object) -> Any:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        **more,
    }
    answer = client.post("/v1/chat/completions", json=body)
    return answer.json() if answer.status_code == httpx.codes.OK else answer.text


def png_url(*, width: int, height: int) -> str:
    """A grey ramp as a data URL: a PNG is a header, zlib-compressed rows and an end, each with its CRC."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes(x % 256 for x in range(width))) * height
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def frames_url(environment_folder: Path) -> str:
    """Twelve frames of 1280×720 as vLLM's data URL for a video: JPEGs with commas between them.

    The environment's own Pillow draws them; the product's has none.
    """
    code = (
        "import base64, io\n"
        "from PIL import Image\n"
        "frames = []\n"
        "for shade in range(12):\n"
        "    page = io.BytesIO()\n"
        "    Image.new('RGB', (1280, 720), (20 * shade, 90, 90)).save(page, 'JPEG')\n"
        "    frames.append(base64.b64encode(page.getvalue()).decode())\n"
        "print('data:video/jpeg;base64,' + ','.join(frames), end='')\n"
    )
    python = environment_folder / "bin" / "python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def sample(page: str, name: str) -> float:
    """The sum over all label sets of one metric on a /metrics page; NaN where it is absent."""
    lines = [line for line in page.splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines) if lines else float("nan")


def members_of_group(group: int) -> list[int]:
    """Process ids of a process group that are not yet gone."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                members.append(int(status.parent.name))
    return members


def resident_mib(group: int) -> float:
    """Memory of a process group, shared pages counted by share (PSS)."""
    total_kib = 0
    for member in members_of_group(group):
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            total_kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total_kib / 1024


# ── The tests ────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_becomes_ready_under_the_rendered_name(life: Life) -> None:
    sys.stdout.write(
        f"real vLLM: ready in {life.ready_s:.1f} s, {life.memory_mib:.0f} MiB, gone {life.exit_s:.1f} s after SIGTERM\n"
    )
    (model,) = life.models["data"]
    assert model["id"] == "tiny"
    assert model["max_model_len"] == 4_096
    assert life.health_while_serving == httpx.codes.OK


def test_it_answers_text(life: Life) -> None:
    assert life.text["usage"]["completion_tokens"] == 8
    assert life.text["model"] == "tiny"


def test_a_picture_is_scaled_to_the_tokens_that_the_variant_allows(life: Life) -> None:
    """Full HD is 2,040 tokens; this variant allows 256 a picture, and the words around it are about a dozen."""
    assert 200 < life.picture["usage"]["prompt_tokens"] < 256 + 24


def test_a_request_may_ask_for_a_smaller_picture_where_the_variant_trusts_it(life: Life) -> None:
    """As the gateway does under overload. Not asked to trust requests, vLLM answers 400."""
    assert 32 < life.smaller_picture["usage"]["prompt_tokens"] < SMALLER_TOKENS + 24


def test_an_answer_says_how_much_of_its_prompt_was_cached(life: Life) -> None:
    usage = life.text_again["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_a_video_is_scaled_to_the_tokens_that_the_variant_allows(life: Life) -> None:
    """Twelve frames of 1280×720 are 6 · 40 · 22 = 5,280 tokens; this variant allows 512, and the context holds 4,096."""
    assert 256 < life.video["usage"]["prompt_tokens"] < 512 + 64


def test_prefix_caching_is_on(life: Life) -> None:
    assert sample(life.metrics, "vllm:prefix_cache_hits_total") > 0
    assert life.text_again["choices"][0]["message"] == life.text["choices"][0]["message"]


def test_load_tracking_is_on(life: Life) -> None:
    assert life.load == {"server_load": 0}


def test_probes_and_scrapes_stay_out_of_the_access_log(life: Life) -> None:
    assert "POST /v1/chat/completions" in life.log
    assert "GET /health" not in life.log
    assert "GET /metrics" not in life.log


def test_finished_requests_are_counted(life: Life) -> None:
    assert sample(life.metrics, "vllm:request_success_total") == 5


def test_sigterm_lets_the_request_in_flight_finish(life: Life) -> None:
    answer = life.in_flight_at_sigterm
    assert isinstance(answer, dict), answer
    assert answer["usage"]["completion_tokens"] == LONG_ANSWER_TOKENS
    assert "mode=drain" in life.log


def test_after_draining_it_exits_cleanly_and_leaves_nothing_behind(life: Life) -> None:
    assert life.exit_code == 0
    assert life.left_over == []


@pytest.mark.parametrize("signal", ENGINE_SIGNALS, ids=lambda signal: signal.name)
def test_the_promql_catalogue_finds_its_metrics_on_the_real_page(signal: Signal, life: Life) -> None:
    """By the newest name: this is the newest vLLM, and an older name that still answers will be gone in the next."""
    newest = next(candidate for candidate in signal.candidates if candidate.origin is Origin.ENGINE)
    suffix = "_bucket" if signal.kind is Kind.HISTOGRAM_P95 else ""
    names = (newest.metric + suffix, *newest.in_flight, *((newest.per_metric,) if newest.per_metric else ()))

    missing = [name for name in names if math.isnan(sample(life.metrics, name))]
    assert missing == []


def test_the_page_says_how_large_the_kv_cache_is(life: Life) -> None:
    """The capacity model's batch limit comes from these labels; no signal of the catalogue carries them."""
    (line,) = [line for line in life.metrics.splitlines() if line.startswith("vllm:cache_config_info{")]
    assert 'num_gpu_blocks="' in line
    assert 'block_size="' in line
