"""The outcome of a scale, and the Event that tells people of it in `kubectl describe`.

Pure: it builds JSON that a strict API server accepts and sends nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from forecaster.types import require_utc
from scaler.adapters.kubernetes.http import Json
from scaler.adapters.kubernetes.targets import TargetRef

CONTROLLER = "headstart.autoscaling/scaler"
"""The `reportingController` of our Events."""

MAX_NOTE_BYTES = 1024
"""A longer note is refused with 422."""

MAX_INSTANCE_CHARS = 128
"""A longer `reportingInstance` is refused with 422."""

MAX_NAME_PREFIX_CHARS = 58
"""A `generateName` is cut here by the server, which adds five random characters."""


class ScaleResult(StrEnum):
    """What became of one `scale`."""

    SCALED = "scaled"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOutcome:
    """`found` replicas stood there before; `replicas` were asked for. A conflict means: decide again from `found`.

    With `floor` both are the floor of the autoscaler above the workload.
    """

    result: ScaleResult
    found: int
    replicas: int
    uid: str = ""
    floor: bool = False


def event_for(target: TargetRef, outcome: ScaleOutcome, *, note: str, now: datetime, instance: str) -> Json:
    """An events.k8s.io/v1 Event that a strict server accepts."""
    if outcome.result is ScaleResult.CONFLICT:
        kind, reason = "Warning", "HeldForOtherWriter"
    else:
        out = outcome.replicas > outcome.found
        up, down = ("FloorRaised", "FloorLowered") if outcome.floor else ("ScaledOut", "ScaledIn")
        kind, reason = "Normal", up if out else down
    # "llm." is refused as a generateName, "llm-" is not.
    prefix = re.sub(r"[^a-z0-9]+$", "", target.name[: MAX_NAME_PREFIX_CHARS - 1])
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{prefix}-", "namespace": target.namespace},
        "eventTime": micro_time(now),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:MAX_INSTANCE_CHARS],
        "action": "Scale",
        "reason": reason,
        "type": kind,
        "note": _shortened(note),
        "regarding": {
            "apiVersion": target.api_version,
            "kind": target.kind,
            "namespace": target.namespace,
            "name": target.name,
            **({"uid": outcome.uid} if outcome.uid else {}),
        },
    }


def _shortened(note: str) -> str:
    data = note.encode()
    if len(data) <= MAX_NOTE_BYTES:
        return note
    ellipsis = "…".encode()
    return data[: MAX_NOTE_BYTES - len(ellipsis)].decode(errors="ignore") + "…"


def micro_time(moment: datetime) -> str:
    """`moment` as Kubernetes' MicroTime. Six digits, never all zero: with 0 the API answers 400."""
    require_utc(moment, "moment")
    exact = moment.replace(tzinfo=None, microsecond=moment.microsecond or 1)
    return exact.isoformat(timespec="microseconds") + "Z"
