"""A request's body as the rules see it: what is asked, of which model, with how many pictures, and how to change it.

Parsed once. Changes are spliced into the client's own bytes where they can be, so that megabytes of pictures are not
encoded again. It decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.gateway.images import check_image
from inference.gateway.refusals import Reason, Refusal

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
PREFIX_CHARACTERS = 1024
"""How much of a prompt's beginning tells which replica has it cached: 256 tokens, sixteen of vLLM's blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """One parsed request."""

    path: str
    raw: bytes
    fields: Mapping[str, Any]
    model: str
    stream: bool
    prefix: str
    """The prompt's first characters."""
    last_text: str
    """The last text of the prompt: what the user wants now."""
    prompt_characters: int
    images: tuple[str, ...]
    """Addresses of the pictures, in their order."""
    videos: int
    max_output_tokens: int | None
    """The client's own limit, if it set one."""

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage of a streamed answer."""
        options = self.fields.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def tag(self) -> str | None:
        """The request class that the client names in `metadata`."""
        metadata = self.fields.get("metadata")
        tag = metadata.get("request_class") if isinstance(metadata, dict) else None
        return tag if isinstance(tag, str) else None


def parse_body(path: str, raw: bytes) -> Body:
    """Read the client's bytes; raises `Refusal` (400) for what no replica could answer."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refusal(Reason.BAD_REQUEST, "the body is no JSON") from error
    if not isinstance(fields, dict):
        raise Refusal(Reason.BAD_REQUEST, "the body is no JSON object")
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(Reason.BAD_REQUEST, "model is missing; name the model that is to answer")
    texts, images, videos = _parts(path, fields)
    for place, image in enumerate(images):
        check_image(image, place=f"image {place}")
    return Body(
        path=path,
        raw=raw,
        fields=fields,
        model=model,
        stream=fields.get("stream") is True,
        prefix="\n".join(texts)[:PREFIX_CHARACTERS],
        last_text=texts[-1] if texts else "",
        prompt_characters=sum(map(len, texts)),
        images=tuple(images),
        videos=videos,
        max_output_tokens=_limit(fields),
    )


def changed(body: Body, changes: Mapping[str, Any]) -> bytes:
    """The client's bytes with top-level fields set to other values."""
    if not changes:
        return body.raw
    if body.fields.keys().isdisjoint(changes):
        # A key that is not there yet is added before the last brace. One that is there would be there twice.
        more = json.dumps(changes, separators=(",", ":")).encode()[1:]
        head = body.raw.rstrip()[:-1].rstrip()
        return head + (b"" if head.endswith(b"{") else b",") + more
    return json.dumps({**body.fields, **changes}, separators=(",", ":"), ensure_ascii=False).encode()


def limit_field(body: Body) -> str:
    """The field in which this request's output limit stands."""
    return "max_completion_tokens" if "max_completion_tokens" in body.fields else "max_tokens"


def _limit(fields: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _parts(path: str, fields: Mapping[str, Any]) -> tuple[list[str], list[str], int]:
    if path == CHAT:
        messages = fields.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(Reason.BAD_REQUEST, "messages is missing or empty")
        return _of_messages(messages)
    prompt = fields.get("input" if path == EMBEDDINGS else "prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    return [text for text in prompts if isinstance(text, str)], [], 0


def _of_messages(messages: Iterable[Any]) -> tuple[list[str], list[str], int]:
    texts: list[str] = []
    images: list[str] = []
    videos = 0
    for message in messages:
        if not isinstance(message, dict):
            raise Refusal(Reason.BAD_REQUEST, "messages holds something that is no message")
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
            continue
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif kind == "image_url":
                images.append(_address(part.get("image_url")))
            elif kind == "video_url":
                videos += 1
    return texts, images, videos


def _address(value: Any) -> str:
    address = value.get("url") if isinstance(value, dict) else value
    if not isinstance(address, str):
        raise Refusal(Reason.BAD_IMAGE, "an image_url has no url")
    return address
