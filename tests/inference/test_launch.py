"""Which arguments and environment a variant is started with, and that vLLM's own parser understands them.

Properties: no flag appears twice, every value is one argument, and equal variants give equal arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InvalidValue
from inference.launch import environment, serve_arguments
from inference.variants import Variant, Weights, shipped_catalogue, variant_named

PARSE_SERVE = Path(__file__).parent / "vllm_env" / "parse_serve.py"


def a_variant(**changes: Any) -> Variant:
    """The shipped 2B on one 24 GB card, with changes."""
    return replace(variant_named("qwen3-vl-2b", shipped_catalogue()), **changes)


def value_after(flag: str, arguments: tuple[str, ...]) -> str:
    return arguments[arguments.index(flag) + 1]


def test_the_whole_command_line_of_the_smallest_variant() -> None:
    assert serve_arguments(a_variant()) == (
        "Qwen/Qwen3-VL-2B-Instruct",
        "--served-model-name",
        "qwen3-vl-2b",
        "--host",
        "0.0.0.0",
        "--port",
        "8000",
        "--dtype",
        "bfloat16",
        "--tensor-parallel-size",
        "1",
        "--gpu-memory-utilization",
        "0.72",
        "--max-model-len",
        "8192",
        "--max-num-seqs",
        "64",
        "--max-num-batched-tokens",
        "2048",
        "--enable-prefix-caching",
        "--limit-mm-per-prompt",
        '{"image":2,"video":1}',
        "--mm-processor-kwargs",
        '{"images_kwargs":{"size":{"longest_edge":2097152}},"videos_kwargs":{"size":{"longest_edge":6291456}}}',
        "--mm-processor-cache-gb",
        "4",
        "--no-trust-request-mm-kwargs",
        "--enable-prompt-tokens-details",
        "--shutdown-timeout",
        "120",
        "--enable-server-load-tracking",
        "--disable-access-log-for-endpoints",
        "/health,/load,/metrics",
    )


@pytest.mark.parametrize(
    ("changes", "flag", "value"),
    [
        pytest.param({"gpus": 4}, "--tensor-parallel-size", "4", id="as many shards as GPUs"),
        pytest.param({"served_model_name": "chat"}, "--served-model-name", "chat", id="a name of its own in the API"),
        pytest.param(
            {"gpu_memory_utilization": 0.9}, "--gpu-memory-utilization", "0.9", id="no digits of a float's tail"
        ),
        pytest.param({"mm_processor_cache_gb": 0.5}, "--mm-processor-cache-gb", "0.5", id="half a gigabyte"),
        pytest.param({"max_num_batched_tokens": 16_384}, "--max-num-batched-tokens", "16384", id="larger steps"),
        pytest.param({"images_per_prompt": 0}, "--limit-mm-per-prompt", '{"image":0,"video":1}', id="video alone"),
        pytest.param(
            {"videos_per_prompt": 0, "max_image_tokens": 1_024},
            "--mm-processor-kwargs",
            '{"images_kwargs":{"size":{"longest_edge":1048576}}}',
            id="1,024 tokens are a megapixel",
        ),
        pytest.param({"shutdown_timeout_s": 300}, "--shutdown-timeout", "300", id="long answers may finish"),
    ],
)
def test_each_setting_reaches_its_flag(changes: dict[str, Any], flag: str, value: str) -> None:
    assert value_after(flag, serve_arguments(a_variant(**changes))) == value


SWITCHES = {
    "enable_prefix_caching": "enable-prefix-caching",
    "enable_prompt_tokens_details": "enable-prompt-tokens-details",
    "trust_request_mm_kwargs": "trust-request-mm-kwargs",
}


@pytest.mark.parametrize(("setting", "flag"), SWITCHES.items())
def test_a_switch_is_said_in_words_either_way_not_by_silence(setting: str, flag: str) -> None:
    for value, said, unsaid in ((True, f"--{flag}", f"--no-{flag}"), (False, f"--no-{flag}", f"--{flag}")):
        arguments = serve_arguments(a_variant(**{setting: value}))

        assert said in arguments
        assert unsaid not in arguments


def test_text_alone_sets_no_picture_sizes() -> None:
    arguments = serve_arguments(a_variant(images_per_prompt=0, videos_per_prompt=0))

    assert value_after("--limit-mm-per-prompt", arguments) == '{"image":0,"video":0}'
    assert "--mm-processor-kwargs" not in arguments


@pytest.mark.parametrize("port", [0, 65_536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(InvalidValue, match=f"port = {port}"):
        serve_arguments(a_variant(), port=port)


def test_weights_that_should_be_there_are_never_downloaded_silently() -> None:
    assert environment(a_variant(weights=Weights(claim="models")))["HF_HUB_OFFLINE"] == "1"
    assert environment(a_variant(weights=Weights(host_path="/srv/models")))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(a_variant())


def test_the_hub_cache_is_where_the_volume_is_mounted() -> None:
    assert environment(a_variant(weights=Weights(claim="models", mount_path="/data")))["HF_HOME"] == "/data"


@given(
    changes=st.fixed_dictionaries(
        {
            "max_num_seqs": st.integers(1, 256),
            "max_num_batched_tokens": st.integers(256, 16_384),
            "gpu_memory_utilization": st.floats(0.6, 0.98),
            "mm_processor_cache_gb": st.floats(0, 64),
            "images_per_prompt": st.integers(0, 2),
            **{switch: st.booleans() for switch in SWITCHES},
            "dtype": st.sampled_from(("auto", "bfloat16", "float16", "float32")),
        }
    )
)
def test_arguments_are_well_formed_and_depend_on_the_variant_alone(changes: dict[str, Any]) -> None:
    variant = a_variant(**changes)
    arguments = serve_arguments(variant)

    flags = [argument for argument in arguments if argument.startswith("--")]
    assert len(flags) == len(set(flags))
    assert all(argument and " " not in argument for argument in arguments)
    assert not arguments[0].startswith("-")
    assert arguments == serve_arguments(a_variant(**changes))


# ── Against the real parser ──────────────────────────────────────────────────────────────────────────────────

SPECS: dict[str, Variant] = {
    **{variant.name: variant for variant in shipped_catalogue()},
    "text": a_variant(images_per_prompt=0, videos_per_prompt=0),
    "no-caches": a_variant(enable_prefix_caching=False, mm_processor_cache_gb=0),
    "switched": a_variant(enable_prompt_tokens_details=False, trust_request_mm_kwargs=True),
    **{dtype: a_variant(dtype=dtype) for dtype in ("auto", "float16", "float32")},
}


@pytest.fixture(scope="module")
def understood(vllm_python: Path) -> dict[str, dict[str, Any]]:
    """What vLLM 0.32's parser makes of each spec's arguments, by the spec's name, and of a flag that it has not."""
    lists = {name: list(serve_arguments(variant)) for name, variant in SPECS.items()}
    lists["swap-space"] = ["some/model", "--swap-space", "4"]
    answer = subprocess.run(
        [vllm_python, PARSE_SERVE],
        input=json.dumps(list(lists.values())),
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr[-2_000:]
    return dict(zip(lists, json.loads(answer.stdout.splitlines()[-1]), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", list(SPECS))
def test_vllm_itself_understands_every_argument(name: str, understood: dict[str, dict[str, Any]]) -> None:
    variant, values = SPECS[name], understood[name]

    assert "refused" not in values, values["refused"]
    assert values["model_tag"] == variant.model
    assert values["served_model_name"] == [variant.api_model]
    assert values["dtype"] == variant.dtype
    assert values["tensor_parallel_size"] == variant.gpus
    assert values["gpu_memory_utilization"] == variant.gpu_memory_utilization
    assert values["max_model_len"] == variant.max_model_len
    assert values["max_num_seqs"] == variant.max_num_seqs
    assert values["max_num_batched_tokens"] == variant.max_num_batched_tokens
    for switch in SWITCHES:
        assert values[switch] is getattr(variant, switch)
    assert values["mm_processor_cache_gb"] == variant.mm_processor_cache_gb
    assert values["limit_mm_per_prompt"] == {"image": variant.images_per_prompt, "video": variant.videos_per_prompt}
    assert values["shutdown_timeout"] == variant.shutdown_timeout_s
    assert values["enable_server_load_tracking"] is True


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_parser_does_refuse_what_vllm_has_not(understood: dict[str, dict[str, Any]]) -> None:
    """Older guides set --swap-space; were it accepted here, the test above could not fail either."""
    assert "--swap-space" in understood["swap-space"]["refused"]
