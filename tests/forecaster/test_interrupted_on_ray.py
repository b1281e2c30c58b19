"""Ctrl-C while Ray is in a call of its own, where Ray makes an error of its own of it. No cluster is needed.

What must hold: the job ends as interrupted, whichever call it was, what is under way is cancelled, and Ctrl-C is
Python's again afterwards.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from forecaster import on_ray
from forecaster.fits import Device, Part
from training_cases import a_panel


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


@dataclass
class RayThatSwallows:
    """Ray's calls, one of which is interrupted and tells so as an error of its own."""

    interrupted_in: str
    shut: bool = False
    exceptions: Any = field(default_factory=lambda: SimpleNamespace(RayError=RayError))

    def init(self, **_: Any) -> None:
        self._call("init")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **_: Any) -> Any:
        numbers = iter(range(100))
        return lambda function: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda part: next(numbers)))

    def wait(self, references: list[int], **_: Any) -> tuple[list[int], list[int]]:
        self._call("wait")
        return references[:1], references[1:]

    def get(self, reference: int) -> Any:
        self._call("get")
        return SimpleNamespace(digest=str(reference))

    def shutdown(self) -> None:
        self.shut = True

    def _call(self, name: str) -> None:
        if name != self.interrupted_in:
            return
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        except KeyboardInterrupt:
            raise RayError("the worker's call was interrupted") from None


def parts(number: int) -> list[Part]:
    panel = a_panel(1, days=1)
    return [
        Part(model="holt-winters", panel=panel, seed=1, steps=None, device=Device.CPU, revision="", digest=f"{each}")
        for each in range(number)
    ]


@pytest.mark.parametrize("call", ["init", "wait", "get"])
def test_an_interrupt_that_ray_makes_an_error_of_still_ends_the_job(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    swallowing, before = RayThatSwallows(interrupted_in=call), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(on_ray, "_ray", lambda: swallowing)
    with pytest.raises(KeyboardInterrupt):
        list(on_ray.Ray().run(parts(20), until_s=None, progress=lambda *_: None))
    assert swallowing.shut, "what is under way must not go on"
    assert signal.getsignal(signal.SIGINT) is before
