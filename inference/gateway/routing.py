"""Which replica answers: the one that has this prompt's beginning cached, unless it carries too much already.

First the variant by the weights of a switch, then weighted rendezvous hashing with bounded loads, then the fewest
requests in flight for its capacity. It knows nothing of health or of classes: who may answer is the caller's list.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from inference.gateway.body import Body
from inference.gateway.bounds import check_bounds

_MASK = (1 << 64) - 1
_TWO_TO_64 = float(1 << 64)


class Carrier(Protocol):
    """A replica as routing sees it."""

    @property
    def variant(self) -> str:
        """The model that it serves: a blue/green switch shares traffic between variants, not between replicas."""

    @property
    def seed(self) -> int:
        """64 bits that tell it from the others and stay the same in every copy of the gateway."""

    @property
    def share(self) -> float:
        """Capacity times weight: its part of the traffic."""

    @property
    def slots(self) -> int:
        """Requests that it may hold at once."""

    @property
    def in_flight(self) -> int:
        """Requests that it holds."""


_Carrier = TypeVar("_Carrier", bound=Carrier)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule:
    """How requests are spread."""

    slots_per_capacity: int = 64
    """Requests at once on a replica of capacity 1.0, vLLM's own waiting ones included; further ones wait here."""
    bound: float = 1.25
    """Affinity may load a replica with so many times the mean."""
    min_prefix_characters: int = 64
    """A prompt shorter than this has no cached beginning worth going to."""

    def __post_init__(self) -> None:
        check_bounds(self, slots_per_capacity=(1, 100_000), bound=(1, 100), min_prefix_characters=(0, 1_000_000))


def affinity_key(body: Body, rule: RoutingRule) -> int | None:
    """What two requests have in common that a replica caches: the first picture, else the prompt's beginning."""
    if body.images:
        text = body.images[0]
    elif body.prompt_characters >= rule.min_prefix_characters:
        text = body.prefix
    else:
        return None
    return key_of(text)


def key_of(text: str) -> int:
    """64 bits of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def choose(carriers: Sequence[_Carrier], *, key: int | None, spread: int, rule: RoutingRule) -> _Carrier | None:
    """The carrier of one more request, or None where every slot is taken.

    `key` is what it has in common with others, `spread` any number that differs between requests: it decides between
    variants, and between equals.
    """
    for variant in _variants(carriers, spread):
        chosen = _within(variant, key=key, spread=spread, rule=rule)
        if chosen is not None:
            return chosen
    return None


def rank(share: float, seed: int, key: int) -> float:
    """The weighted rendezvous score: over many keys each contender is highest as often as its share says."""
    return share / -math.log(_uniform(key ^ seed))


def _variants(carriers: Sequence[_Carrier], spread: int) -> Sequence[Sequence[_Carrier]]:
    """The carriers by the model that they serve, in this request's order.

    A switch from 8B to 4B at weights 9 : 1 must send one in ten to the new one at any load. Over all replicas at once
    the fewest in flight would send it half of a quiet fleet's requests, and a common prompt all or nothing.
    """
    variants: dict[str, list[_Carrier]] = {}
    for each in carriers:
        if each.share > 0:
            variants.setdefault(each.variant, []).append(each)
    if len(variants) < 2:
        return list(variants.values())
    scores = {
        name: rank(sum(each.share for each in members), key_of(name), spread) for name, members in variants.items()
    }
    return [variants[name] for name in sorted(scores, key=lambda name: scores[name], reverse=True)]


def _within(carriers: Sequence[_Carrier], *, key: int | None, spread: int, rule: RoutingRule) -> _Carrier | None:
    free = [each for each in carriers if each.in_flight < each.slots]
    if len(free) < 2:
        return free[0] if free else None
    if key is not None:
        total = sum(each.in_flight for each in carriers) + 1
        shares = sum(each.share for each in carriers)
        for each in sorted(free, key=lambda each: rank(each.share, each.seed, key), reverse=True):
            # 4 replicas that carry 19, and this one: at most ceil(1.25 · 20 / 4) = 7 on one of them.
            if each.in_flight < math.ceil(rule.bound * total * each.share / shares):
                return each
    least = min((each.in_flight + 1) / each.share for each in free)
    equals = [each for each in free if (each.in_flight + 1) / each.share <= least]
    return max(equals, key=lambda each: rank(each.share, each.seed, spread)) if len(equals) > 1 else equals[0]


def _uniform(bits: int) -> float:
    """A number in (0, 1) from 64 bits, by the finaliser of SplitMix64: neighbours in, strangers out."""
    bits &= _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    bits ^= bits >> 31
    return (bits + 0.5) / _TWO_TO_64
