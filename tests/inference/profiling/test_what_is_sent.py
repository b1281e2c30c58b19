"""Classes as people write them, arrivals, bodies and pictures; and how an answer's stream is read."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from itertools import islice, pairwise
from pathlib import Path

import pytest

from inference.errors import InvalidValue
from inference.profiling.client import AnswerStream, Status, read_page
from inference.profiling.plan import RequestClass, SweepPlan, read_class
from inference.profiling.traffic import arrivals, body, picture

METRICS_PAGE = Path(__file__).resolve().parents[3].parent / "shared" / "vllm" / "metrics.txt"


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_class_is_read_as_people_write_it() -> None:
    assert read_class("chat=256+128") == RequestClass(name="chat", prompt_tokens=256, output_tokens=128)
    gui = read_class("gui=64+48+1280x720")
    assert (gui.image_width, gui.image_height, gui.has_image) == (1280, 720, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("chat", "write NAME=PROMPT", id="no numbers"),
        pytest.param("chat=256", "write NAME=PROMPT", id="no answer"),
        pytest.param("Chat=1+2", "write NAME=PROMPT", id="not a label's spelling"),
        pytest.param("chat=0+5", "prompt_tokens = 0 is out of range; use 1 to", id="no prompt"),
        pytest.param("chat=5+1", "output_tokens = 1 is out of range; use 2 to", id="no gap between tokens"),
        pytest.param("gui=5+5+0x9", "does not go with image_width = 0", id="half a picture"),
        pytest.param("gui=5+5+99999x9", "image_width = 99999 is out of range", id="a huge picture"),
    ],
)
def test_a_class_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        read_class(text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"classes": ()}, "names none", id="no class"),
        pytest.param({"classes": (read_class("a=1+2"), read_class("a=3+4"))}, "names none, one twice", id="twice"),
        pytest.param({"classes": (read_class("mixed=1+2"),)}, "or one mixed", id="the name of all"),
        pytest.param({"budget_s": float("nan")}, "budget_s = nan", id="no budget"),
        pytest.param({"level_s": 0.0}, "level_s = 0.0 is out of range", id="no time"),
    ],
)
def test_a_plan_that_cannot_be(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        SweepPlan(**changes)  # type: ignore[arg-type]


# ── Traffic ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_arrivals_are_poissons_and_the_same_again() -> None:
    shares = {"chat": 3.0, "gui": 1.0}
    first = list(islice(arrivals(8.0, shares, "1 0"), 20_000))
    assert first == list(islice(arrivals(8.0, shares, "1 0"), 20_000))
    assert first != list(islice(arrivals(8.0, shares, "1 1"), 20_000))
    gaps = [later - before for (before, _), (later, _) in pairwise(first)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 8, rel=0.03)
    # an exponential's deviation is its mean
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean * mean, rel=0.05)
    assert sum(name == "chat" for _, name in first) / len(first) == pytest.approx(0.75, abs=0.02)


def test_a_picture_is_a_png_of_its_size_and_its_own() -> None:
    url = picture(70, 33, "1")
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (70, 33)
    length = struct.unpack(">I", data[33:37])[0]
    assert len(zlib.decompress(data[41 : 41 + length])) == 33 * (1 + 70)
    assert url == picture(70, 33, "1")
    assert url != picture(70, 33, "2")


def test_a_body_asks_for_exactly_its_tokens_and_its_prompt_is_new() -> None:
    gui = read_class("gui=64+48+32x32")
    one, other = (body("tiny", gui, word_count=20, seed=seed) for seed in ("a", "b"))
    assert (one["max_tokens"], one["ignore_eos"], one["stream_options"]) == (48, True, {"include_usage": True})
    image, text = one["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png")
    assert len(text["text"].split()) == 20
    assert text != other["messages"][0]["content"][1]
    assert isinstance(body("tiny", gui, word_count=20, seed="a", with_image=False)["messages"][0]["content"], str)


# ── Answers ───────────────────────────────────────────────────────────────────────────────────────────────────


def chunk(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n"


ROLE = chunk(choices=[{"delta": {"role": "assistant", "content": ""}}])
HALF = chunk(choices=[{"delta": {"content": ""}}])
WORD = chunk(choices=[{"delta": {"content": "word"}}])
THOUGHT = chunk(choices=[{"delta": {"role": "assistant", "reasoning_content": "hm"}}])
USAGE = chunk(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 3})
FAULT = chunk(error={"message": "engine died", "code": 500})
DONE = b"data: [DONE]\n"


@pytest.mark.parametrize(
    ("lines", "first_after", "status"),
    [
        pytest.param([ROLE, b"\n", WORD, WORD, USAGE, DONE], 3, Status.OK, id="usual"),
        pytest.param([ROLE, HALF, WORD, USAGE, DONE], 2, Status.OK, id="half a character is a token"),
        pytest.param([THOUGHT, WORD, USAGE, DONE], 1, Status.OK, id="thinks aloud"),
        pytest.param([b": ping\n", ROLE, WORD, USAGE, DONE], 3, Status.OK, id="a comment"),
        pytest.param([ROLE, WORD, USAGE], 2, Status.FAILED, id="ends without its end"),
        pytest.param([ROLE, DONE], None, Status.FAILED, id="no token"),
        pytest.param([ROLE, WORD, DONE], 2, Status.FAILED, id="does not count"),
        pytest.param([ROLE, WORD, FAULT, DONE], 2, Status.FAILED, id="an error in the middle"),
    ],
)
def test_how_a_stream_is_read(lines: list[bytes], first_after: int | None, status: Status) -> None:
    stream, first = AnswerStream(), None
    for number, line in enumerate(lines, 1):
        stream.take(line)
        if first is None and stream.first_token_s is not None:
            first = number
    assert first == first_after
    assert stream.verdict()[0] is status
    if status is Status.OK:
        assert (stream.prompt_tokens, stream.output_tokens) == (9, 3)


def test_a_real_metrics_page() -> None:
    if not METRICS_PAGE.exists():
        pytest.skip("the page of a real vLLM is not here")
    page = read_page(METRICS_PAGE.read_text())
    assert page is not None
    assert page.kv_tokens == 1024 * 128
    assert page.running >= 0.0
    assert page.preemptions is not None


@pytest.mark.parametrize(
    ("page", "kv_tokens"),
    [
        pytest.param("", None, id="empty"),
        pytest.param("up 1\n", None, id="another program's"),
        pytest.param("vllm:num_requests_running 3\n", None, id="half of it"),
    ],
)
def test_a_page_that_says_nothing(page: str, kv_tokens: None) -> None:
    assert read_page(page) is kv_tokens


def test_engines_of_one_server_add_up() -> None:
    page = read_page(
        'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_running{engine="1"} 4\n'
        'vllm:num_requests_waiting{engine="0"} 0\nvllm:num_requests_waiting{engine="1"} 2\n'
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="10"} 1.0\n'
        'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="10"} 1.0\n'
    )
    assert page is not None
    assert (page.running, page.waiting, page.kv_tokens, page.kv_usage) == (7.0, 2.0, 320, None)
