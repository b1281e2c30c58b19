"""Whether a pod that is removed may finish what it serves: its grace against what it waits for and drains.

A pod's end is preStop, then SIGTERM, then the server's own drain; what is left when the grace is over is killed, and
its streams with it. Pure over the API's JSON: it reads what the manifest says and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_GRACE_S = 30.0
"""What Kubernetes gives a pod that says nothing."""

_SLEEP = re.compile(r"\bsleep[\s,'\"]+(\d+(?:\.\d+)?)")
_TIMEOUT = re.compile(r"--shutdown-timeout(?:=|\s+)(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Seconds of grace, of preStop, and of the engine's own drain (None where it names none and is a vLLM's).

    A preStop hook that does something else than sleep counts as 0 s.
    """

    grace_s: float
    pre_stop_s: float = 0.0
    shutdown_s: float | None = 0.0
    has_pre_stop: bool = False

    def __str__(self) -> str:
        drain = "none" if self.shutdown_s is None else f"{self.shutdown_s:g} s"
        return f"{self.grace_s:g} s of grace: preStop {self.pre_stop_s:g} s, drain {drain}"

    @property
    def trouble(self) -> str:
        """What is wrong with it in words, "" if nothing is."""
        if self.shutdown_s is None:
            return "requests in flight are cut at SIGTERM: the engine has no --shutdown-timeout"
        needed = self.pre_stop_s + self.shutdown_s
        if needed and self.grace_s <= needed:
            return (
                f"requests in flight are killed after {self.grace_s:g} s: preStop takes {self.pre_stop_s:g} s, "
                f"the engine's drain up to {self.shutdown_s:g} s"
            )
        return ""

    @property
    def fix(self) -> str:
        """What to set so that it drains."""
        if self.shutdown_s is None:
            return "add --shutdown-timeout 120 to vllm serve, and terminationGracePeriodSeconds above it"
        return f"set terminationGracePeriodSeconds above {self.pre_stop_s + self.shutdown_s:g}"


def drain_of(pod: Mapping[str, Any]) -> Drain:
    """The drain of a pod, or of a pod template, as its `spec` says."""
    spec = pod.get("spec") or {}
    containers = spec.get("containers") or ()
    grace = spec.get("terminationGracePeriodSeconds")
    return Drain(
        grace_s=DEFAULT_GRACE_S if grace is None else float(grace),
        pre_stop_s=max((_pre_stop_s(each) for each in containers), default=0.0),
        shutdown_s=_shutdown_s(containers),
        has_pre_stop=any((each.get("lifecycle") or {}).get("preStop") for each in containers),
    )


def _pre_stop_s(container: Mapping[str, Any]) -> float:
    hook = (container.get("lifecycle") or {}).get("preStop") or {}
    if "sleep" in hook:
        return float(hook["sleep"].get("seconds") or 0)
    slept = _SLEEP.findall(" ".join((hook.get("exec") or {}).get("command") or ()))
    return sum(map(float, slept))


def _shutdown_s(containers: Any) -> float | None:
    """The longest drain that a command line names; None for a vLLM that names none: it aborts what it serves."""
    lines = list(_command_lines(containers))
    named = [float(found) for line in lines for found in _TIMEOUT.findall(line)]
    if named:
        return max(named)
    return None if any("vllm serve" in line for line in lines) else 0.0


def _command_lines(containers: Any) -> Iterator[str]:
    for each in containers:
        yield " ".join(str(word) for word in (*(each.get("command") or ()), *(each.get("args") or ())))
