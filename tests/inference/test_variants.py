"""What a variant accepts and refuses, and what a catalogue is.

Properties: a variant that is accepted can hold one request of full length in its KV cache, and every prompt within
its picture and video limits in its context.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.errors import CatalogueError, InvalidValue
from inference.variants import (
    TENSOR_PARALLEL_SIZES,
    Variant,
    Weights,
    batched_tokens_for,
    parse_catalogue,
    read_catalogue,
    shipped_catalogue,
    variant_named,
)


def a_variant(**changes: Any) -> Variant:
    """The shipped 2B on one 24 GB card, with changes."""
    return replace(variant_named("qwen3-vl-2b", shipped_catalogue()), **changes)


def test_the_shipped_catalogue_serves_four_sizes_within_the_documented_limits() -> None:
    variants = shipped_catalogue()

    assert [variant.name for variant in variants] == ["qwen3-vl-2b", "qwen3-vl-4b", "qwen3-vl-8b", "qwen3-vl-32b"]
    assert {variant.gpu_memory_utilization for variant in variants} == {0.72}
    assert {variant.max_model_len for variant in variants} == {8_192}
    assert all(32 <= variant.max_num_seqs <= 256 for variant in variants)
    assert [variant.weights_gib for variant in variants] == sorted(variant.weights_gib for variant in variants)


@pytest.mark.parametrize(
    ("name", "parameters", "layers"),
    [
        pytest.param("qwen3-vl-2b", 2_127_532_032, 28, id="2B"),
        pytest.param("qwen3-vl-4b", 4_437_815_808, 36, id="4B"),
        pytest.param("qwen3-vl-8b", 8_767_123_696, 36, id="8B"),
        pytest.param("qwen3-vl-32b", 33_357_390_064, 64, id="32B"),
    ],
)
def test_catalogue_sizes_follow_from_the_architecture(name: str, parameters: int, layers: int) -> None:
    variant = variant_named(name, shipped_catalogue())

    assert variant.weights_gib == pytest.approx(2 * parameters / 2**30, abs=0.01)
    assert variant.kv_kib_per_token == 2 * layers * 8 * 128 * 2 / 1024


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        pytest.param({"name": "Qwen_VL"}, "name", "use a-z", id="a name that DNS refuses"),
        pytest.param({"name": "a" * 47}, "name", "use a-z", id="a name whose pods would be no DNS label"),
        pytest.param({"name": ""}, "name", "use a-z", id="no name"),
        pytest.param({"model": ""}, "model", "hub name", id="no model"),
        pytest.param({"model": "--trust-remote-code"}, "model", "hub name", id="a flag in place of a model"),
        pytest.param({"served_model_name": "two words"}, "served_model_name", "leave it out", id="a name with a blank"),
        pytest.param({"image": "vllm/vllm-openai"}, "image", "name a release", id="an image without a tag"),
        pytest.param({"image": "vllm/vllm-openai:latest"}, "image", "name a release", id="latest is a moving image"),
        pytest.param({"image": "host:5000/vllm"}, "image", "name a release", id="a port is no tag"),
        pytest.param({"gpus": 3}, "gpus", "1, 2, 4, 8", id="heads don't divide by three"),
        pytest.param({"gpus": 0}, "gpus", "1, 2, 4, 8", id="no GPU"),
        pytest.param(
            {"gpu_memory_utilization": 72}, "gpu_memory_utilization", "0.1 and 0.98", id="percent for a share"
        ),
        pytest.param({"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization", "between", id="not a number"),
        pytest.param({"max_num_seqs": 0}, "max_num_seqs", "between 1", id="no sequence"),
        pytest.param(
            {"max_num_seqs": 512, "max_num_batched_tokens": 256},
            "max_num_batched_tokens",
            "at least 512",
            id="no token each",
        ),
        pytest.param({"mm_processor_cache_gb": -1}, "mm_processor_cache_gb", "between 0", id="a negative cache"),
        pytest.param({"shutdown_timeout_s": 0}, "shutdown_timeout_s", "between 1", id="0 aborts requests in flight"),
        pytest.param({"start_budget_s": 5}, "start_budget_s", "between 60", id="no model loads in five seconds"),
        pytest.param(
            {"max_image_tokens": 5_000}, "max_model_len", "lower max_image_tokens", id="pictures fill the context"
        ),
        pytest.param(
            {"weights_gib": 17.3}, "gpu_memory_utilization", "more or larger GPUs", id="weights leave no cache"
        ),
        pytest.param({"weights": Weights(claim="a", host_path="/b")}, "weights", "either", id="two places for weights"),
        pytest.param({"weights": Weights(host_path="models")}, "weights", "absolute", id="a relative path"),
        pytest.param({"weights": Weights(mount_path="/")}, "weights", "absolute", id="mounted over the root"),
    ],
)
def test_refuses_what_cannot_work_and_says_what_to_do(changes: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        a_variant(**changes)

    assert caught.value.field == field
    assert fix in caught.value.fix
    assert f"{field} = " in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"image": "registry.example:5000/vllm@sha256:" + "0" * 64}, id="an image by digest"),
        pytest.param({"image": "registry.example:5000/vllm:v1"}, id="a registry with a port"),
        pytest.param({"model": "/models/Qwen3-VL-2B-Instruct"}, id="a model by path"),
        pytest.param({"images_per_prompt": 0, "videos_per_prompt": 0}, id="text alone"),
        pytest.param({"weights": Weights(claim="models")}, id="weights on a claim"),
        pytest.param({"name": "a" * 46}, id="the longest name"),
        pytest.param({"served_model_name": "Qwen/Qwen3-VL-2B-Instruct"}, id="the hub's name in the API"),
    ],
)
def test_accepts(changes: dict[str, Any]) -> None:
    a_variant(**changes)


def test_8b_does_not_fit_one_24_gb_card_and_the_error_says_by_how_much() -> None:
    eight = variant_named("qwen3-vl-8b", shipped_catalogue())

    with pytest.raises(InvalidValue, match=r"at most 6393 tokens of KV cache .* may need 8192") as caught:
        replace(eight, gpu_memory_gib=23.9)

    assert "GPUs" in caught.value.fix
    assert replace(eight, gpu_memory_gib=23.9, gpus=2).kv_tokens_at_most > 100_000


@given(
    weights_gib=st.floats(0.5, 300),
    gpu_memory_gib=st.floats(8, 192),
    gpus=st.sampled_from(TENSOR_PARALLEL_SIZES),
    context=st.integers(256, 131_072),
    images=st.integers(0, 8),
    image_tokens=st.integers(64, 16_384),
)
@example(weights_gib=4.0, gpu_memory_gib=24.0, gpus=1, context=8_192, images=1, image_tokens=256)
@example(weights_gib=62.0, gpu_memory_gib=80.0, gpus=2, context=32_768, images=8, image_tokens=1_024)
def test_every_accepted_variant_can_hold_its_own_longest_request(
    weights_gib: float, gpu_memory_gib: float, gpus: int, context: int, images: int, image_tokens: int
) -> None:
    try:
        variant = a_variant(
            weights_gib=weights_gib,
            gpu_memory_gib=gpu_memory_gib,
            gpus=gpus,
            max_model_len=context,
            images_per_prompt=images,
            max_image_tokens=image_tokens,
            videos_per_prompt=0,
        )
    except InvalidValue:
        return  # refused, so nothing is promised of it; the two examples above are accepted

    needed_gib = variant.weights_gib + context * variant.kv_kib_per_token / 2**20
    assert needed_gib <= gpus * gpu_memory_gib * 0.72 + 1e-9
    assert images * image_tokens < context


@pytest.mark.parametrize(
    ("peak_rps", "tokens"),
    [
        pytest.param(0.0, 4_096, id="idle"),
        pytest.param(2_000.0, 4_096, id="the edge belongs below"),
        pytest.param(2_000.1, 8_192, id="middle"),
        pytest.param(6_001.0, 16_384, id="high"),
        pytest.param(1e9, 16_384, id="without end"),
    ],
)
def test_larger_pools_batch_larger_steps(peak_rps: float, tokens: int) -> None:
    assert batched_tokens_for(peak_rps) == tokens


@pytest.mark.parametrize("rate", [pytest.param(-1.0, id="negative"), pytest.param(float("nan"), id="not a number")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InvalidValue, match="peak_rps"):
        batched_tokens_for(rate)


ONE = "{name: a, model: b/c, weights_gib: 1, kv_kib_per_token: 1, gpu_memory_gib: 24"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{", "is no YAML", id="no YAML"),
        pytest.param("[]", "kind: VariantCatalogue", id="a list"),
        pytest.param("kind: Deployment", "kind: VariantCatalogue", id="another kind"),
        pytest.param("kind: VariantCatalogue", "variants: ", id="no variants"),
        pytest.param(
            f"kind: VariantCatalogue\nvariants: [{ONE}, max_model_length: 9}}]",
            "variants.0.max_model_length: unknown key, did you mean max_model_len?",
            id="a misspelt key",
        ),
        pytest.param(
            f"kind: VariantCatalogue\nvariants: [{ONE}, weights: {{claimm: x}}}}]",
            "variants.0.weights.claimm: unknown key, did you mean claim?",
            id="a misspelt key inside",
        ),
        pytest.param(
            f"kind: VariantCatalogue\nvariants: [{ONE}, gpus: two}}]", "variants.0.gpus: ", id="a word for a number"
        ),
        pytest.param(f"kind: VariantCatalogue\nvariants: [{ONE}}}, {ONE}}}]", "variant a is there twice", id="twice"),
        pytest.param("kind: VariantCatalogue\nvariants: [{name: a}]", "variants.0.model: ", id="no model"),
        pytest.param("!!python/object/apply:os.getcwd []", "is no YAML", id="code in YAML is refused"),
    ],
)
def test_a_catalogue_that_is_none_names_the_place(text: str, problem: str) -> None:
    with pytest.raises(CatalogueError, match=re.escape(problem)) as caught:
        parse_catalogue(text, source="mine.yaml")

    assert str(caught.value).startswith("mine.yaml: ")


def test_a_catalogue_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text(f"kind: VariantCatalogue\nvariants: [{ONE}, weights: {{claim: models}}}}]")

    (variant,) = read_catalogue(path)

    assert variant.weights == Weights(claim="models")
    with pytest.raises(CatalogueError, match="cannot be read"):
        read_catalogue(tmp_path / "missing.yaml")


def test_an_impossible_variant_in_a_catalogue_is_refused_by_name() -> None:
    with pytest.raises(InvalidValue, match=r"variant a: gpus = 3"):
        parse_catalogue(f"kind: VariantCatalogue\nvariants: [{ONE}, gpus: 3}}]", source="mine.yaml")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("qwen3-vl-9b", "did you mean qwen3-vl", id="near"),
        pytest.param("llama", "there are qwen3-vl-2b,", id="far"),
    ],
)
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(CatalogueError, match=hint):
        variant_named(name, shipped_catalogue())
