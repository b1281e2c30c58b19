"""What a sweep asks of a server: the request classes, how long a level takes, and where it ends at the latest.

A class is one token shape. Three that differ in prompt and in answer are the least that tell what a computed token
costs from what a held one costs. It never talks to a server.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from inference.errors import InvalidValue

MIXED = "mixed"
"""What the levels of all classes together are called; no class may be."""
MOST_TOKENS = 1_000_000
MOST_PIXELS = 8_192
_CLASS = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9_.-]{0,62})=(?P<prompt>\d{1,7})\+(?P<output>\d{1,7})(\+(?P<width>\d{1,5})x(?P<height>\d{1,5}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestClass:
    """One kind of request: so many tokens in, so many out, and perhaps a picture."""

    name: str
    """As the metrics will name it."""
    prompt_tokens: int
    """Tokens of the text; the picture's come on top."""
    output_tokens: int
    """Tokens that every answer has; at least 2, or there is no time between two."""
    image_width: int = 0
    """Pixels; 0 without a picture."""
    image_height: int = 0
    """Pixels; 0 without a picture."""
    share: float = 1.0
    """Part of the mixed traffic, in proportion to the other classes' shares."""

    def __post_init__(self) -> None:
        for name, least, most in (("prompt_tokens", 1, MOST_TOKENS), ("output_tokens", 2, MOST_TOKENS)):
            self._check(name, least, most)
        for name in ("image_width", "image_height"):
            self._check(name, 0, MOST_PIXELS)
        if bool(self.image_width) != bool(self.image_height):
            raise InvalidValue(
                subject=f"class {self.name}",
                field="image_height",
                value=self.image_height,
                problem=f"does not go with image_width = {self.image_width}",
                fix="give both, as 640x480",
            )
        if not 0.0 < self.share < float("inf"):
            raise InvalidValue(
                subject=f"class {self.name}",
                field="share",
                value=self.share,
                problem="is no part of anything",
                fix="use a number above 0",
            )

    def _check(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise InvalidValue(
                subject=f"class {self.name}",
                field=name,
                value=value,
                problem="is out of range",
                fix=f"use {least} to {most}",
            )

    @property
    def has_image(self) -> bool:
        """Whether each of its requests carries a picture."""
        return self.image_width > 0


DEFAULT_CLASSES = (
    RequestClass(name="chat", prompt_tokens=256, output_tokens=128),
    RequestClass(name="long", prompt_tokens=1_500, output_tokens=32),
    RequestClass(name="write", prompt_tokens=64, output_tokens=384),
)
"""Prompt-heavy, answer-heavy and between: far enough apart to tell α, β and γ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """The whole sweep. The same plan, model and server give the same requests at the same moments of each level."""

    classes: tuple[RequestClass, ...] = DEFAULT_CLASSES
    """Swept one after the other, then mixed."""
    level_s: float = 15.0
    """How long requests are sent at one rate; longer where a lone request takes over a quarter of it."""
    budget_s: float = 600.0
    """How long one call may take, the waiting for the last answers not counted; the next call goes on."""
    max_requests: int = 20_000
    """Requests that one call sends at most."""
    max_in_flight: int = 1_024
    """Requests waiting for their answer at which a level ends: the server is far beyond its limit."""
    seed: int = 1
    """Of arrivals, words and pictures."""

    def __post_init__(self) -> None:
        names = [each.name for each in self.classes]
        if not names or len(set(names)) != len(names) or MIXED in names:
            raise InvalidValue(
                subject="sweep",
                field="classes",
                value=", ".join(names),
                problem=f"names none, one twice, or one {MIXED}",
                fix="give each class once, by a name of its own",
            )
        for name, least, most in (
            ("level_s", 0.1, 3_600.0),
            ("budget_s", 1.0, 86_400.0),
            ("max_requests", 1, 10_000_000),
            ("max_in_flight", 1, 100_000),
            ("seed", 0, 2**63),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidValue(
                    subject="sweep",
                    field=name,
                    value=value,
                    problem="is out of range",
                    fix=f"use {least:g} to {most:g}",
                )

    def as_json(self) -> dict[str, Any]:
        """What a sweep that goes on must share with its beginning: all but how long and how many."""
        return {"classes": [asdict(each) for each in self.classes], "level_s": self.level_s, "seed": self.seed}


def read_class(text: str) -> RequestClass:
    """A class as people write it: `chat=256+128`, with a picture `gui=64+48+1280x720`.

    Raises `InvalidValue`.
    """
    found = _CLASS.fullmatch(text)
    if found is None:
        raise InvalidValue(
            subject="sweep",
            field="class",
            value=text,
            problem="cannot be read",
            fix="write NAME=PROMPT+OUTPUT in tokens, such as chat=256+128, with a picture gui=64+48+1280x720",
        )
    return RequestClass(
        name=found["name"],
        prompt_tokens=int(found["prompt"]),
        output_tokens=int(found["output"]),
        image_width=int(found["width"] or 0),
        image_height=int(found["height"] or 0),
    )
