"""Raw files of sweeps that a simulated replica went through, in the format that the real sweep writes. Holds no test."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaler.service.model import ServiceModel
from scaler.simulate.serving.driven import open_loop
from scaler.simulate.serving.engine import Request

FRONT_END_S = 0.005
TRUTH = ServiceModel(alpha_s=0.020, beta_s=3e-5, gamma_s=2e-7, per_sequence_s=0.001, max_num_seqs=8, kv_tokens=60_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of the sweep and the rates it was sent at."""

    name: str
    prompt: int
    output: int
    rates: Sequence[float]
    beyond: float
    """From this rate on the replica fell behind."""


CHAT = Kind(name="chat", prompt=110, output=32, rates=(0.5, 2.0, 4.0, 6.0, 8.0, 12.0), beyond=8.0)
LONG = Kind(name="long", prompt=800, output=16, rates=(1.0, 4.0, 7.0, 12.0, 20.0), beyond=12.0)
WRITE = Kind(name="write", prompt=60, output=96, rates=(0.2, 1.0, 2.0, 2.4, 5.0), beyond=5.0)
KINDS = (CHAT, LONG, WRITE)


def raw_file(path: Path, kinds: Sequence[Kind] = KINDS, *, service: ServiceModel = TRUTH, looked: bool = True) -> Path:
    """The sweep of these kinds, each level two hundred requests."""
    head = {
        "kind": "sweep",
        "format": "headstart/sweep-v1",
        "started_at": "2026-11-21T12:00:00+00:00",
        "url": "http://127.0.0.1:8000",
        "model": "simulated",
        "seed": 1,
        "level_s": 15.0,
        "classes": [
            {
                "name": each.name,
                "prompt_tokens": each.prompt,
                "output_tokens": each.output,
                "image_width": 0,
                "image_height": 0,
                "share": 1.0,
            }
            for each in kinds
        ],
    }
    lines: list[Mapping[str, Any]] = [head]
    if looked:
        lines.append({"kind": "facts", "kv_tokens": service.kv_tokens})
    number = 0
    for kind in kinds:
        for rate in kind.rates:
            lines += level_lines(number, kind, rate, service, looked=looked)
            number += 1
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def level_lines(
    number: int, kind: Kind, rate_rps: float, service: ServiceModel, *, looked: bool = True
) -> list[dict[str, Any]]:
    """The requests of one level, what the metrics page showed, and its end."""
    dice, at_s, requests = random.Random(f"{kind.name} {rate_rps}"), 0.0, []
    for _ in range(200):
        at_s += dice.expovariate(rate_rps)
        requests.append(
            Request(request_class=kind.name, arrived_s=at_s, input_tokens=kind.prompt, output_tokens=kind.output)
        )
    open_loop(service, [(each, FRONT_END_S) for each in requests])
    lines = [
        {
            "kind": "request",
            "level": number,
            "class": kind.name,
            "status": "ok",
            "sent_s": each.arrived_s,
            "prompt_tokens": each.input_tokens,
            "image_tokens": 0,
            "output_tokens": each.output_tokens,
            "ttft_s": each.ttft_s,
            "itl_s": each.itl_s,
            "e2e_s": each.e2e_s,
        }
        for each in requests
    ]
    if looked and rate_rps >= kind.beyond:
        lines.append({"kind": "sample", "level": number, "running": service.max_num_seqs, "waiting": 5.0})
    lines.append(
        {
            "kind": "level",
            "level": number,
            "class": kind.name,
            "rate_rps": rate_rps,
            "length_s": at_s,
            "ended": "full",
            "sent": len(requests),
            "failed": 0,
            "cancelled": 0,
            "beyond": rate_rps >= kind.beyond,
        }
    )
    return lines
