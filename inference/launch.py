"""How a variant is started: the arguments and the environment of `vllm serve`, for vLLM 0.32.

A pure function of the variant. It never starts a process, never reads the environment, and never passes a flag that
the tests have not shown to vLLM's own parser. Flags that are left out are left to vLLM on purpose: the block size
belongs to the attention backend, and `--swap-space`, which older guides set, no longer exists.
"""

from __future__ import annotations

import json
from typing import Any

from inference.errors import InvalidValue
from inference.variants import Variant

PIXELS_PER_IMAGE_TOKEN = 32 * 32
"""Qwen3-VL: patches of 16×16 pixels, merged two by two."""

PIXELS_PER_VIDEO_TOKEN = 2 * PIXELS_PER_IMAGE_TOKEN
"""As for a picture, and two frames to a token."""

SCRATCH_PATH = "/scratch"
"""A writable folder of the container: home of every cache that vLLM, Triton and CUDA keep."""

QUIET_ENDPOINTS = ("/health", "/load", "/metrics")
"""Not in the access log: two probes and a scrape are some 23,000 lines a day that say nothing of traffic."""


def serve_arguments(variant: Variant, *, host: str = "0.0.0.0", port: int = 8000) -> tuple[str, ...]:
    """What follows `vllm serve`: the model first, then each flag and its value as separate strings.

    Pass them as they are, without a shell. Raises `InvalidValue` for a port that is none.
    """
    if not 1 <= port <= 65_535:
        raise InvalidValue(
            subject=f"variant {variant.name}", field="port", value=port, problem="is no port", fix="use 8000"
        )
    return (
        variant.model,
        *("--served-model-name", variant.api_model),
        *("--host", host),
        *("--port", str(port)),
        *_engine_limits(variant),
        *_multimodal_limits(variant),
        _switch("prompt-tokens-details", on=variant.enable_prompt_tokens_details),
        # vLLM's default of 0 aborts what is in flight when SIGTERM comes: every scale-in would be a burst of errors.
        *("--shutdown-timeout", str(variant.shutdown_timeout_s)),
        # Its gauges don't see a request whose pictures are still being decoded in the API server; GET /load does.
        "--enable-server-load-tracking",
        *("--disable-access-log-for-endpoints", ",".join(QUIET_ENDPOINTS)),
    )


def environment(variant: Variant) -> dict[str, str]:
    """The environment that those arguments expect in the container, sorted by name; it holds no secret."""
    names = {
        # Where hub names are looked up; harmless for a model given by path.
        "HF_HOME": variant.weights.mount_path,
        # Caches go below the home folder; an arbitrary user id has none, and no name for getpass.getuser() either.
        "HOME": SCRATCH_PATH,
        "USER": "vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if variant.weights.prepulled:
        # A missing file then fails at once and by name, instead of turning into a silent download of many minutes.
        names["HF_HUB_OFFLINE"] = "1"
    return dict(sorted(names.items()))


def _engine_limits(variant: Variant) -> tuple[str, ...]:
    return (
        *("--dtype", variant.dtype),
        *("--tensor-parallel-size", str(variant.gpus)),
        *("--gpu-memory-utilization", f"{variant.gpu_memory_utilization:g}"),
        *("--max-model-len", str(variant.max_model_len)),
        *("--max-num-seqs", str(variant.max_num_seqs)),
        *("--max-num-batched-tokens", str(variant.max_num_batched_tokens)),
        _switch("prefix-caching", on=variant.enable_prefix_caching),
    )


def _multimodal_limits(variant: Variant) -> tuple[str, ...]:
    """Counts and sizes of pictures and videos; without a size limit one screenshot could fill the whole context."""
    counts = {"image": variant.images_per_prompt, "video": variant.videos_per_prompt}
    sizes: dict[str, Any] = {}
    if variant.images_per_prompt:
        sizes["images_kwargs"] = _at_most(variant.max_image_tokens * PIXELS_PER_IMAGE_TOKEN)
    if variant.videos_per_prompt:
        sizes["videos_kwargs"] = _at_most(variant.max_video_tokens * PIXELS_PER_VIDEO_TOKEN)
    return (
        *("--limit-mm-per-prompt", _json(counts)),
        *(("--mm-processor-kwargs", _json(sizes)) if sizes else ()),
        *("--mm-processor-cache-gb", f"{variant.mm_processor_cache_gb:g}"),
        "--trust-request-mm-kwargs" if variant.trust_request_mm_kwargs else "--no-trust-request-mm-kwargs",
    )


def _at_most(pixels: int) -> dict[str, dict[str, int]]:
    """A size limit in the processor's words: despite its name, `longest_edge` is an area. (`max_pixels`, its older
    name, is on its way out.)"""
    return {"size": {"longest_edge": pixels}}


def _switch(name: str, *, on: bool) -> str:
    """Said either way: what a release of vLLM has as its default may be another's."""
    return f"--enable-{name}" if on else f"--no-enable-{name}"


def _json(value: object) -> str:
    """Compact JSON with sorted keys: the same variant gives the same bytes, and so no needless rollout."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
