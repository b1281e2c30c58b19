"""Which class a request belongs to, and how hard its task is: by the client's tag, else by what is in it.

A pure function of the body and one header. A tag that no rule knows is ignored, never passed on: it would become a
label of the metrics and a response header, and both are the operator's to name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from inference.gateway.backends import POOL_NAME
from inference.gateway.body import Body
from inference.gateway.bounds import check_bounds

_CLASS_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRule:
    """One request class. It is chosen by its name or a tag, or by its content where all conditions given hold."""

    name: str
    """Label `request_class` of the metrics: the scaler forecasts each class by itself."""
    tags: tuple[str, ...] = ()
    """Other words by which clients may name it."""
    min_images: int | None = None
    """At least so many pictures."""
    min_videos: int | None = None
    """At least so many videos."""
    min_prompt_characters: int | None = None
    """At least so much text."""
    max_prompt_characters: int | None = None
    """At most so much text."""
    min_output_tokens: int | None = None
    """At least so many output tokens allowed by the client."""
    keywords: tuple[str, ...] = ()
    """One of these words in the prompt's last text, in any case."""
    pools: tuple[str, ...] = ()
    """Pools it may use, in order: the next one takes what the one before has no room for. All of them if none."""

    def __post_init__(self) -> None:
        if not _CLASS_NAME.fullmatch(self.name):
            raise ValueError(f"name = {self.name!r} is no class's name; use a-z, 0-9, - and _")
        for pool in self.pools:
            if not POOL_NAME.fullmatch(pool):
                raise ValueError(f"pools names {pool!r}, which is no pool's name; use a-z, 0-9, - and _")
        most = 10**9
        check_bounds(self, min_images=(1, 1000), min_videos=(1, 1000), min_output_tokens=(1, most))
        check_bounds(self, min_prompt_characters=(1, most), max_prompt_characters=(1, most))


DEFAULT = ClassRule(name="default")
"""What no rule knows; the scaler calls demand without a class by the same name."""


class Complexity(StrEnum):
    """How hard a task looks, without a model that judges it."""

    SIMPLE = "simple"
    MODERATE = "moderate"
    COMPLEX = "complex"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplexityRule:
    """Where easy ends and hard begins. Tools and videos are always hard."""

    simple_prompt_characters: int = 500
    """A text up to this and no picture is simple."""
    simple_output_tokens: int = 256
    """An output limit above this is not simple."""
    complex_prompt_characters: int = 6000
    """A text above this is hard."""
    complex_output_tokens: int = 2048
    """An output limit above this is hard."""
    complex_images: int = 3
    """So many pictures are hard."""

    def __post_init__(self) -> None:
        most = 10**9
        check_bounds(self, simple_prompt_characters=(0, most), complex_prompt_characters=(1, most))
        check_bounds(self, simple_output_tokens=(0, most), complex_output_tokens=(1, most), complex_images=(1, 1000))


def classify(body: Body, rules: Sequence[ClassRule], *, header: str | None = None) -> ClassRule:
    """The first rule that the header names, else the body's tag, else whose conditions hold; `DEFAULT` if none."""
    for tag in (header, body.tag):
        if tag is not None:
            for rule in rules:
                if tag == rule.name or tag in rule.tags:
                    return rule
    return next((rule for rule in rules if _holds(rule, body)), DEFAULT)


def complexity(body: Body, rule: ComplexityRule) -> Complexity:
    """How hard this task looks."""
    output = body.max_output_tokens or 0
    if (
        body.videos
        or body.fields.get("tools")
        or len(body.images) >= rule.complex_images
        or body.prompt_characters > rule.complex_prompt_characters
        or output > rule.complex_output_tokens
    ):
        return Complexity.COMPLEX
    if body.images or body.prompt_characters > rule.simple_prompt_characters or output > rule.simple_output_tokens:
        return Complexity.MODERATE
    return Complexity.SIMPLE


def _holds(rule: ClassRule, body: Body) -> bool:
    conditions: list[bool] = []
    if rule.min_images is not None:
        conditions.append(len(body.images) >= rule.min_images)
    if rule.min_videos is not None:
        conditions.append(body.videos >= rule.min_videos)
    if rule.min_prompt_characters is not None:
        conditions.append(body.prompt_characters >= rule.min_prompt_characters)
    if rule.max_prompt_characters is not None:
        conditions.append(body.prompt_characters <= rule.max_prompt_characters)
    if rule.min_output_tokens is not None:
        conditions.append((body.max_output_tokens or 0) >= rule.min_output_tokens)
    if rule.keywords:
        text = body.last_text.lower()
        conditions.append(any(word.lower() in text for word in rule.keywords))
    return bool(conditions) and all(conditions)
