"""Reading the raw file of a sweep: levels, their requests, and what the server said of itself meanwhile.

The format stands in docs/profiling.md. Requests of a level that never ended are left out. It judges nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaler.errors import DataError
from scaler.service.fit_requests import Served

FORMAT = "headstart/sweep-v1"
MIXED = "mixed"
"""The name under which levels of all classes together are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Requests that were sent at one rate, and what became of them."""

    number: int
    name: str
    """The class, or `MIXED`."""
    rate_rps: float
    """Arrivals a second that were meant."""
    length_s: float
    """How long requests were sent."""
    sent: int
    failed: int
    """Without a whole answer."""
    cancelled: int
    """Given up when the level ended."""
    beyond: bool
    """Whether the replica fell behind: whoever came last waited for long, or many failed."""
    served: tuple[Served, ...]
    """Those with a whole answer."""
    most_running: int
    """Most requests in the server's batch while others waited; 0 if none ever waited, or nobody looked."""

    @property
    def throughput_rps(self) -> float:
        """Answers a second until the last one, of a level that began empty."""
        return len(self.served) / max((each.finished_s for each in self.served), default=float("inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSweep:
    """A whole raw file."""

    model: str
    url: str
    started_at: str
    seed: int
    classes: tuple[str, ...]
    """In the order they were swept."""
    shares: Mapping[str, float]
    """Part of each class in the mixed traffic."""
    kv_tokens: int | None
    """Size of the KV cache; None where the server did not say."""
    image_sizes: Mapping[str, tuple[int, int]]
    """Width and height in pixels of the classes that have pictures."""
    levels: tuple[Level, ...]

    @property
    def seen_max_num_seqs(self) -> int | None:
        """Most requests that ran while others waited: the server's --max-num-seqs, if memory was not the limit."""
        return max((each.most_running for each in self.levels), default=0) or None

    def of(self, name: str) -> tuple[Level, ...]:
        """The levels of one class, or the mixed ones, from the lowest rate."""
        return tuple(sorted((each for each in self.levels if each.name == name), key=lambda each: each.rate_rps))


def read_raw_sweep(path: Path) -> RawSweep:
    """The sweep in a raw file. Raises `DataError` where it is none."""
    lines = _lines(path)
    head = lines[0] if lines else {}
    if head.get("kind") != "sweep" or head.get("format") != FORMAT:
        raise DataError(
            f"{path}: not the raw file of a sweep in the format {FORMAT}; make one with headstart profile URL"
        )
    try:
        return _sweep(head, lines)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: a line lacks what it should have ({type(error).__name__}: {error})") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        with path.open(encoding="utf-8") as stream:
            for number, text in enumerate(stream, 1):
                try:
                    found.append(json.loads(text))
                except ValueError:
                    if text.endswith("\n"):
                        raise DataError(
                            f"{path}:{number}: not a line of JSON; is this the raw file of a sweep?"
                        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; is this the raw file of a sweep?") from None
    return [each for each in found if isinstance(each, dict)]


def _sweep(head: Mapping[str, Any], lines: list[dict[str, Any]]) -> RawSweep:
    requests: dict[int, list[dict[str, Any]]] = defaultdict(list)
    running: dict[int, int] = defaultdict(int)
    levels, kv_tokens = [], None
    for line in lines:
        match line.get("kind"):
            case "facts":
                kv_tokens = line["kv_tokens"]
            case "request":
                requests[line["level"]].append(line)
            case "sample" if line["waiting"] > 0:
                running[line["level"]] = max(running[line["level"]], int(line["running"]))
            case "level":
                levels.append(_level(line, requests[line["level"]], running[line["level"]]))
    return RawSweep(
        model=str(head["model"]),
        url=str(head["url"]),
        started_at=str(head["started_at"]),
        seed=int(head["seed"]),
        classes=tuple(each["name"] for each in head["classes"]),
        shares={each["name"]: float(each["share"]) for each in head["classes"]},
        kv_tokens=kv_tokens,
        image_sizes={
            each["name"]: (each["image_width"], each["image_height"]) for each in head["classes"] if each["image_width"]
        },
        levels=tuple(levels),
    )


def _level(line: Mapping[str, Any], requests: list[dict[str, Any]], most_running: int) -> Level:
    return Level(
        number=int(line["level"]),
        name=str(line["class"]),
        rate_rps=float(line["rate_rps"]),
        length_s=float(line["length_s"]),
        sent=int(line["sent"]),
        failed=int(line["failed"]),
        cancelled=int(line["cancelled"]),
        beyond=bool(line["beyond"]),
        served=tuple(_served(each) for each in requests if each["status"] == "ok"),
        most_running=most_running,
    )


def _served(line: Mapping[str, Any]) -> Served:
    sent_s = float(line["sent_s"])
    return Served(
        request_class=str(line["class"]),
        input_tokens=int(line["prompt_tokens"]),
        output_tokens=int(line["output_tokens"]),
        image_tokens=int(line["image_tokens"]),
        sent_s=sent_s,
        first_token_s=sent_s + float(line["ttft_s"]),
        finished_s=sent_s + float(line["e2e_s"]),
    )
