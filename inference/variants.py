"""What one served variant is: a model, the GPUs of one replica, and the limits that its engine starts with.

It decides whether a launch spec can work at all, before any GPU is spent on it, and reads the catalogue of specs.
It never renders flags (`launch`) or manifests (`manifests`), never asks a network, and never guesses how fast a
variant is: that is measured, and lives in a capacity profile.

Fields that become a vLLM flag carry the flag's own name, so that a reader finds them in vLLM's documentation.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from inference.errors import CatalogueError, InvalidValue

DEFAULT_IMAGE = "vllm/vllm-openai:v0.32.0"
"""The vLLM release whose arguments `launch` renders; another release is another set of flags."""

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
"""GPUs a replica may span: vLLM splits the attention heads evenly, and Qwen3-VL's counts are multiples of 8."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,44}[a-z0-9])?")
_TAGGED_IMAGE = re.compile(r".+(:(?P<tag>[\w][\w.-]{0,127})|@sha256:[0-9a-f]{64})")

BATCHED_TOKENS_BY_PEAK_RPS = ((2_000.0, 4_096), (6_000.0, 8_192), (math.inf, 16_384))
"""Up to this many requests a second at the peak → tokens a step may batch (S17)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where a replica finds the model's files. At most one of `claim` and `host_path`; neither: the model hub.

    Files that are there before the pod is start in the time it takes to read them. From the hub, each new replica
    first downloads them (65 GB for 32B): minutes that the forecast must then look further ahead.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic reads it, dataclass ignores it

    claim: str | None = None
    """A PersistentVolumeClaim that every node may mount read-only."""
    host_path: str | None = None
    """A folder on the node, filled before pods are scheduled there."""
    mount_path: str = "/models"
    """Where the files appear in the container: a model hub's cache folder, or the parent of plain model folders."""

    @property
    def prepulled(self) -> bool:
        """Whether the files are in place before the pod starts."""
        return self.claim is not None or self.host_path is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model on one kind of replica. Raises `InvalidValue` for a spec that vLLM or Kubernetes would refuse.

    The defaults are the conservative set of S18: text and two pictures a prompt on one card, 0.72 of its memory,
    8,192 tokens of context, steps of 2,048 tokens over 64 sequences. Raise them from a measured capacity profile.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic reads it, dataclass ignores it

    name: str
    """Name of the Deployment and Service, and of the workload in metrics: a DNS label of at most 46 characters."""
    model: str
    """A hub name such as "Qwen/Qwen3-VL-8B-Instruct", or an absolute path in the container."""
    weights_gib: float
    """Size of the loaded weights over all GPUs together."""
    kv_kib_per_token: float
    """KV cache of one token over all GPUs: 2 · layers · KV heads · head size · bytes an element."""
    gpu_memory_gib: float
    """Memory of one GPU as `nvidia-smi` reports it (a "24 GB" card has 22.5 to 24 GiB)."""
    gpus: int = 1
    """GPUs of one replica, and so vLLM's tensor-parallel size."""
    gpu_memory_utilization: float = 0.72
    """Share of each GPU that vLLM may take; the rest absorbs what its start-up profiling did not see (S18)."""
    max_model_len: int = 8_192
    """Longest prompt plus output, in tokens."""
    max_num_seqs: int = 64
    """Most sequences that one step computes."""
    max_num_batched_tokens: int = 2_048
    """Most tokens that one step computes; a start flag, so chosen per pool: `batched_tokens_for` (S17)."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    enable_prefix_caching: bool = True
    """Share the KV cache of equal prompt beginnings: the first cache level of S14."""
    mm_processor_cache_gb: float = 4.0
    """Host memory for processed pictures, taken once by the API server and once by the engine; 0 turns it off."""
    enable_prompt_tokens_details: bool = True
    """Say in each answer's usage how many of its prompt tokens were cached: what the gateway counts for each class."""
    trust_request_mm_kwargs: bool = False
    """Obey a request's own picture sizes, as the gateway's `degradation.max_image_pixels` sends them. They may also be
    larger than `max_image_tokens`: only for replicas that nobody reaches but through the gateway, which then drops
    what clients write there."""
    images_per_prompt: int = 2
    videos_per_prompt: int = 1
    max_image_tokens: int = 2_048
    """A larger picture is scaled down to this many tokens; 1920×1080 is 60 · 34 = 2,040 of them."""
    max_video_tokens: int = 3_072
    """A longer or larger video is scaled down to this many tokens; 12 frames of 640×480 are 6 · 20 · 15 = 1,800."""
    served_model_name: str | None = None
    """The model's name in the API; by default the variant's own."""
    image: str = DEFAULT_IMAGE
    """Container image, with a tag that stays what it is, or a digest."""
    weights: Weights = field(default_factory=Weights)
    start_budget_s: int = 900
    """Longest start, from container created to the first healthy answer, before Kubernetes restarts it."""
    shutdown_timeout_s: int = 120
    """How long requests in flight may go on after SIGTERM; vLLM's own default of 0 aborts them."""

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        _check_prompt(self)
        _check_memory(self)

    @property
    def api_model(self) -> str:
        """The name that clients put into a request's `model`."""
        return self.served_model_name or self.name

    @property
    def kv_tokens_at_most(self) -> int:
        """Tokens that the KV cache could hold if activations took no memory: an upper bound, never an estimate.

        8B on one 23.9 GiB card: (0.72 · 23.9 - 16.33) GiB / 144 KiB = 6,393 tokens, under its 8,192 of context.
        """
        free_gib = self.gpus * self.gpu_memory_gib * self.gpu_memory_utilization - self.weights_gib
        return max(0, math.floor(free_gib * 2**20 / self.kv_kib_per_token))


def batched_tokens_for(peak_rps: float) -> int:
    """Tokens a step should batch for a pool whose expected peak is `peak_rps` requests a second (S17).

    Larger steps serve more at once and make each of them slower. It is a flag of vLLM's start: choose it when a
    pool is deployed or in quiet hours, never by restarting replicas under load.
    """
    if not peak_rps >= 0.0:
        raise InvalidValue(
            subject="pool", field="peak_rps", value=peak_rps, problem="is no rate", fix="give requests a second, ≥ 0"
        )
    return next(tokens for limit, tokens in BATCHED_TOKENS_BY_PEAK_RPS if peak_rps <= limit)


# ── Checks: each names the value, why it cannot work, and what to set instead ────────────────────────────────


def _refuse(variant: Variant, name: str, problem: str, fix: str) -> InvalidValue:
    value = getattr(variant, name)
    return InvalidValue(subject=f"variant {variant.name}", field=name, value=value, problem=problem, fix=fix)


def _check_names(variant: Variant) -> None:
    if not _NAME.fullmatch(variant.name):
        # 46 and not 63: pods are called name-xxxxxxxxxx-xxxxx, and that is their host name, a DNS label itself.
        raise _refuse(variant, "name", "is no DNS label of at most 46 characters", "use a-z, 0-9 and -, a letter first")
    if not variant.model or variant.model.startswith("-") or variant.model != variant.model.strip():
        raise _refuse(
            variant, "model", "is no model name or path", 'write a hub name such as "Qwen/Qwen3-VL-2B-Instruct"'
        )
    if variant.served_model_name is not None and not re.fullmatch(r"[\w][\w./:-]*", variant.served_model_name):
        raise _refuse(variant, "served_model_name", "is no model name", "leave it out to use the variant's own name")
    image = _TAGGED_IMAGE.fullmatch(variant.image)
    if image is None or image["tag"] == "latest":
        problem = "may be another image on every node"
        raise _refuse(variant, "image", problem, f"name a release or a digest, such as {DEFAULT_IMAGE}")
    if variant.weights.claim is not None and variant.weights.host_path is not None:
        raise _refuse(variant, "weights", "names two places", "keep either claim or host_path")
    for path in (variant.weights.host_path, variant.weights.mount_path):
        if path is not None and not re.fullmatch(r"(/[\w.-]+)+", path):
            raise _refuse(variant, "weights", f"has the path {path!r}", "use an absolute path such as /models")


_RANGES: dict[str, tuple[float, float]] = {
    "weights_gib": (0.01, 2_048),
    "kv_kib_per_token": (0.1, 8_192),
    "gpu_memory_gib": (1, 1_024),
    # Under a tenth nothing loads; at 1.0 the CUDA context and everything that profiling missed have no room.
    "gpu_memory_utilization": (0.1, 0.98),
    "max_model_len": (256, 1_048_576),
    "max_num_seqs": (1, 4_096),
    "max_num_batched_tokens": (256, 131_072),
    "mm_processor_cache_gb": (0, 256),
    "images_per_prompt": (0, 64),
    "videos_per_prompt": (0, 16),
    # 64 and 16,384 tokens are the model's own limits for one picture, 128 and 12,288 for a video.
    "max_image_tokens": (64, 16_384),
    "max_video_tokens": (128, 12_288),
    "start_budget_s": (60, 7_200),
    "shutdown_timeout_s": (1, 3_600),
}
"""Inclusive bounds of the numbers that are checked one by one."""


def _check_numbers(variant: Variant) -> None:
    for name, (low, high) in _RANGES.items():
        if not low <= getattr(variant, name) <= high:
            raise _refuse(variant, name, "is out of range", f"set it between {low:g} and {high:g}")
    if variant.gpus not in TENSOR_PARALLEL_SIZES:
        sizes = ", ".join(map(str, TENSOR_PARALLEL_SIZES))
        raise _refuse(variant, "gpus", "does not divide the attention heads", f"use one of {sizes}")
    if variant.max_num_batched_tokens < variant.max_num_seqs:
        problem = f"is under max_num_seqs = {variant.max_num_seqs}, one token a sequence"
        raise _refuse(variant, "max_num_batched_tokens", problem, f"raise it to at least {variant.max_num_seqs}")


def _check_prompt(variant: Variant) -> None:
    """A prompt that is within every limit must fit the context: else clients meet a 400 that no limit announced."""
    pictures = variant.images_per_prompt * variant.max_image_tokens
    media = pictures + variant.videos_per_prompt * variant.max_video_tokens
    if media >= variant.max_model_len:
        problem = f"leaves no room for text beside {media} tokens of pictures and video"
        fix = "lower max_image_tokens, max_video_tokens, images_per_prompt or videos_per_prompt"
        raise _refuse(variant, "max_model_len", problem, fix)


def _check_memory(variant: Variant) -> None:
    """vLLM refuses to start when one sequence of full length does not fit its cache; it says so after loading."""
    if variant.kv_tokens_at_most >= variant.max_model_len:
        return
    problem = (
        f"of {variant.gpus} × {variant.gpu_memory_gib:g} GiB leaves at most {variant.kv_tokens_at_most} tokens of KV"
        f" cache beside {variant.weights_gib:g} GiB of weights, and one request may need {variant.max_model_len}"
    )
    fix = "use more or larger GPUs, a smaller max_model_len, or a higher gpu_memory_utilization"
    raise _refuse(variant, "gpu_memory_utilization", problem, fix)


# ── The catalogue ────────────────────────────────────────────────────────────────────────────────────────────

_VARIANTS: TypeAdapter[tuple[Variant, ...]] = TypeAdapter(tuple[Variant, ...])


def parse_catalogue(text: str, *, source: str) -> tuple[Variant, ...]:
    """The variants of a catalogue document, in its order; `source` is what errors call it.

    Raises `CatalogueError` for what is no catalogue (with the place in it) and `InvalidValue` for a variant that
    cannot work.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CatalogueError(source=source, problem=f"is no YAML: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != "VariantCatalogue":
        raise CatalogueError(source=source, problem="is no catalogue; start it with kind: VariantCatalogue")
    try:
        variants = _VARIANTS.validate_python(document.get("variants"))
    except ValidationError as error:
        raise CatalogueError(source=source, problem=_first_problem(error)) from error
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise CatalogueError(source=source, problem=f"variant {name} is there twice; rename or remove one")
    return variants


def read_catalogue(path: Path) -> tuple[Variant, ...]:
    """The variants of the catalogue file at `path`; errors as in `parse_catalogue`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(source=str(path), problem=f"cannot be read: {error}") from error
    return parse_catalogue(text, source=str(path))


def shipped_catalogue() -> tuple[Variant, ...]:
    """The variants that come with this package: Qwen3-VL 2B, 4B, 8B and 32B."""
    file = resources.files("inference").joinpath("catalogue.yaml")
    return parse_catalogue(file.read_text(encoding="utf-8"), source="catalogue.yaml")


def variant_named(name: str, variants: tuple[Variant, ...]) -> Variant:
    """The variant called `name`; `CatalogueError` with the nearest names if there is none."""
    for variant in variants:
        if variant.name == name:
            return variant
    names = [variant.name for variant in variants]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
    raise CatalogueError(source="catalogue", problem=f"no variant is called {name}; {hint}")


def _first_problem(error: ValidationError) -> str:
    """The first thing wrong, with its place and, for an unknown key, the key that was probably meant."""
    first: Any = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in ("variants", *first["loc"]))
    key = str(first["loc"][-1]) if first["loc"] else ""
    known = [each.name for each in (*fields(Variant), *fields(Weights))]
    if first["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(key, known, n=1)
        return f"{place}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    return f"{place}: {first['msg']} (got {first['input']!r})"
