"""Request bodies that come in protobuf, as JSON: helm's release Secrets, and what `kubectl auth can-i` asks.

Real API servers take protobuf for every built-in kind; the double takes it for these two.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

_MAGIC = b"k8s\x00"
"""How the API's envelope begins."""


def as_json(method: str, raw: bytes) -> bytes | None:
    """The body of a request as JSON, or None where it holds another kind. A deletion's options are left out."""
    if method == "DELETE":
        return b""
    if not raw.startswith(_MAGIC):
        return None
    envelope = dict(_fields(raw.removeprefix(_MAGIC)))
    kind = dict(_fields(envelope[1])).get(2, b"")
    known = {b"Secret": _secret, b"SelfSubjectAccessReview": _review}
    return json.dumps(known[kind](envelope[2])).encode() if kind in known else None


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: bytes for length-delimited ones, else the number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 2:
            length, at = _varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            value, at = _varint(message, at)
            yield tag >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _map(entries: list[bytes]) -> dict[str, bytes]:
    pairs = [dict(_fields(entry)) for entry in entries]
    return {pair[1].decode(): pair.get(2, b"") for pair in pairs}


def _secret(raw: bytes) -> dict[str, Any]:
    fields = list(_fields(raw))
    metadata = list(_fields(next(value for number, value in fields if number == 1)))
    texts = {1: "name", 3: "namespace", 6: "resourceVersion"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            **{texts[number]: value.decode() for number, value in metadata if number in texts and value},
            "labels": {k: v.decode() for k, v in _map([v for n, v in metadata if n == 11]).items()},
        },
        "type": next((value.decode() for number, value in fields if number == 3), "Opaque"),
        "data": {k: base64.b64encode(v).decode() for k, v in _map([v for n, v in fields if n == 2]).items()},
    }


def _review(raw: bytes) -> dict[str, Any]:
    names = {1: "namespace", 2: "verb", 3: "group", 4: "version", 5: "resource", 6: "subresource", 7: "name"}
    attributes = dict(_fields(dict(_fields(raw))[2]))[1]
    asked = {names[number]: value.decode() for number, value in _fields(attributes) if number in names}
    return {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
