"""Which objects of a cluster serve a model with vLLM, by what their pod templates say. Pure, over the API's JSON.

It never guesses a name or a number that is not written there, and what it leaves out it gives a reason for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

Json = Mapping[str, Any]

VLLM_PORT = 8000
"""Where vLLM listens unless told otherwise."""

_GPU = re.compile(r".*/gpu|nvidia\.com/mig-.*|gpu\.intel\.com/.*")
"""Resource names of accelerators: nvidia.com/gpu, amd.com/gpu, a MIG slice, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One object that serves a model. `evidence` says by what it was recognised."""

    namespace: str
    name: str
    api_version: str
    kind: str
    replicas: int
    gpus: int
    """GPUs that one replica asks for; 0 where it asks for none."""
    model: str = ""
    """What it serves, as its arguments say: a name on a hub, or a path."""
    served_names: tuple[str, ...] = ()
    """Under which names requests and metrics know the model."""
    evidence: tuple[str, ...] = ()
    start_time: timedelta | None = None
    """Median of its pods' times from created to Ready; None where none is Ready."""

    @property
    def workload(self) -> str:
        """ "namespace/name"."""
        return f"{self.namespace}/{self.name}"

    @property
    def model_names(self) -> tuple[str, ...]:
        """What `model_name` may be in its metrics: vLLM takes the first served name, else the model itself."""
        return self.served_names or ((self.model,) if self.model else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An object that holds GPUs and was not taken, and why."""

    workload: str
    reason: str


def recognise(items: Iterable[Json], *, api_version: str, kind: str) -> tuple[list[Candidate], list[LeftOut]]:
    """The objects of one kind that serve with vLLM, and those that hold GPUs for something else.

    Objects without any sign of either are nobody's business here. `KeyError`, `TypeError` or `ValueError` where the
    JSON is not shaped as the API promises.
    """
    found: list[Candidate] = []
    left: list[LeftOut] = []
    for item in items:
        metadata, spec = item["metadata"], item.get("spec") or {}
        workload = f"{metadata['namespace']}/{metadata['name']}"
        if any(owner.get("controller") for owner in metadata.get("ownerReferences") or ()):
            continue  # the StatefulSet of a LeaderWorkerSet: its owner is what is scaled
        containers = list(_containers(spec))
        signs = [(each, _evidence(each)) for each in containers]
        serving = [(each, found_by) for each, found_by in signs if found_by]
        gpus = gpus_of_replica(spec)
        if not serving:
            if gpus:
                reason = f"holds {gpus} GPUs a replica, and neither image nor arguments speak of vLLM"
                left.append(LeftOut(workload=workload, reason=reason))
            continue
        container, evidence = serving[0]
        words = _words(container)
        found.append(
            Candidate(
                namespace=metadata["namespace"],
                name=metadata["name"],
                api_version=api_version,
                kind=kind,
                replicas=int(spec.get("replicas", 0)),
                gpus=gpus,
                model=_model(words),
                served_names=_values(words, "--served-model-name"),
                evidence=evidence,
            )
        )
    return found, left


def _containers(spec: Json) -> Iterator[Json]:
    """The containers of whatever serves: a Deployment's pods, or a LeaderWorkerSet's leader before its workers."""
    for template in templates_of(spec):
        yield from (template.get("spec") or {}).get("containers") or ()


def templates_of(spec: Json) -> list[Json]:
    """The pod templates of an object, the one of the pods that are asked first."""
    group = spec.get("leaderWorkerTemplate")
    if group is None:
        return [spec.get("template") or {}]
    worker = group.get("workerTemplate") or {}
    return [group.get("leaderTemplate") or worker, worker]


def gpus_of_replica(spec: Json) -> int:
    """GPUs of one replica: of one pod, or of a group's leader and all its workers."""
    counts = [_gpus(template) for template in templates_of(spec)]
    if len(counts) == 1:
        return counts[0]
    return counts[0] + counts[1] * (int((spec.get("leaderWorkerTemplate") or {}).get("size") or 1) - 1)


def _gpus(template: Json) -> int:
    wanted = 0
    for container in (template.get("spec") or {}).get("containers") or ():
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("requests") or {}), **(resources.get("limits") or {})}.items():
            if _GPU.fullmatch(name):
                wanted += int(amount)
    return wanted


def _evidence(container: Json) -> tuple[str, ...]:
    """What says that this container runs vLLM. A port and a GPU alone say it of many things."""
    words, image = _words(container), str(container.get("image") or "")
    signs = []
    if "vllm" in image.lower():
        signs.append(f"image {image}")
    if any(word.rpartition("/")[2] == "vllm" for word in words) or any("vllm.entrypoints" in word for word in words):
        signs.append("runs `vllm serve`" if "serve" in words else "starts vLLM")
    listens = any(port.get("containerPort") == VLLM_PORT for port in container.get("ports") or ())
    if not signs and "--model" in {word.partition("=")[0] for word in words} and listens and _holds_gpus(container):
        signs.append(f"has --model, GPUs and port {VLLM_PORT}")
    return tuple(signs)


def _holds_gpus(container: Json) -> bool:
    return _gpus({"spec": {"containers": [container]}}) > 0


def _words(container: Json) -> tuple[str, ...]:
    """Command and arguments word by word, also where a shell is given a line of them."""
    words: list[str] = []
    for part in (*(container.get("command") or ()), *(container.get("args") or ())):
        try:
            words += shlex.split(str(part).replace("\\\n", " "))
        except ValueError:  # a quote without its end: as it stands
            words.append(str(part))
    return tuple(words)


def _model(words: Sequence[str]) -> str:
    """The model of `--model X`, or of `vllm serve X`."""
    given = _values(words, "--model")
    if given:
        return given[0]
    for word, following in pairwise(words):
        if word == "serve" and not following.startswith("-"):
            return following
    return ""


def _values(words: Sequence[str], option: str) -> tuple[str, ...]:
    """What follows an option, up to the next one; references to variables are no values."""
    values: list[str] = []
    for at, word in enumerate(words):
        if word.startswith(f"{option}="):
            values.append(word.partition("=")[2])
        elif word == option:
            for following in words[at + 1 :]:
                if following.startswith("-") or following in ("&&", "||", ";", "|"):
                    break
                values.append(following)
    return tuple(value for value in values if value and "$" not in value)
