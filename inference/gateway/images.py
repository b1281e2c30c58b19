"""Whether a picture in a request can be one, told from its address alone: before a replica spends time on it.

It never decodes a picture: it looks at the encoding, the first bytes and, where they are at a fixed place, the size.
"""

from __future__ import annotations

import binascii
import hashlib
import struct

from inference.gateway.refusals import Reason, Refusal

MAX_PIXELS = 100_000_000
"""A picture that says it is larger is a decompression bomb: 10,000 × 10,000 pixels are 300 MB once decoded."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HEAD_CHARACTERS = 64
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_SCHEMES = ("data:", "http://", "https://")


def check_image(address: str, *, place: str) -> None:
    """Raise `Refusal` (400) for a picture that no replica could read; `place` names it in the message."""
    if not address.startswith(_SCHEMES):
        raise Refusal(Reason.BAD_IMAGE, f"{place} is neither a data: nor an http(s): address")
    if not address.startswith("data:"):
        return
    header, comma, text = address.partition(",")
    if not comma or not header.endswith(";base64"):
        raise Refusal(Reason.BAD_IMAGE, f"{place} is no base64 data: address")
    # 1 ms a megabyte; decoding would take three, and the replica does it again anyway.
    rest = text.encode("ascii", "replace").translate(None, _ALPHABET)
    if not text or len(text) % 4 or rest not in (b"", b"=", b"==") or not text.endswith(rest.decode("ascii")):
        raise Refusal(Reason.BAD_IMAGE, f"{place} is cut off or no base64")
    if not header.startswith("data:image/"):
        return
    head = binascii.a2b_base64(text[:_HEAD_CHARACTERS])
    if not head.startswith(_MAGIC):
        raise Refusal(Reason.BAD_IMAGE, f"{place} is no PNG, JPEG, GIF, WebP, BMP or TIFF picture")
    size = _size(head)
    if size is not None and not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise Refusal(Reason.BAD_IMAGE, f"{place} says it is {size[0]}×{size[1]}; at most {MAX_PIXELS:,} pixels")


def digest(address: str) -> str:
    """What tells two pictures apart: a hash of the address, which for data: is the picture itself."""
    return hashlib.blake2b(address.encode(), digest_size=16).hexdigest()


def _size(head: bytes) -> tuple[int, int] | None:
    """Width and height where they are at a fixed place in the first bytes, as in PNG and GIF."""
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        return width, height
    if head.startswith(b"GIF8") and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
        return width, height
    return None
