"""The proposals as a settings file that a person goes on from: short, commented, observing everything. Pure.

What it writes passes `headstart validate`. It writes no secret and no setting that stays at its default, but those
that somebody starting has to know of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forecaster.sources.selector import WorkloadSelector
from scaler.config import API_VERSION
from scaler.config.check import shown_duration
from scaler.onboarding.candidates import LeftOut
from scaler.onboarding.proposal import ProfileGuess, Proposal

SCHEMA_LINE: Final = "# yaml-language-server: $schema=headstart.schema.json"

UNKNOWN_URL: Final = "http://prometheus.monitoring:9090"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where the proposals come from."""

    prometheus: str | None
    """None where no metrics server was named."""
    kubeconfig: Path | None = None
    context: str | None = None


def settings_text(proposals: Sequence[Proposal], left_out: Sequence[LeftOut], surroundings: Surroundings) -> str:
    """The whole file."""
    return "\n".join([*_head(surroundings), *_entries(proposals), *_left(left_out)]) + "\n"


def _head(surroundings: Surroundings) -> Iterator[str]:
    yield SCHEMA_LINE
    yield "# Written by `headstart init`. Nothing is scaled while mode is observe: it only shows what it would do."
    yield "# Next: go through the comments, then `headstart doctor`, then `headstart run`."
    yield f"apiVersion: {API_VERSION}"
    yield "kind: Config"
    yield ""
    yield "prometheus:"
    if surroundings.prometheus is None:
        yield f"  url: {UNKNOWN_URL}   # CHANGE: `headstart init` was told none, so nothing was looked for there"
    else:
        yield f"  url: {json.dumps(surroundings.prometheus)}"
    if surroundings.kubeconfig is not None or surroundings.context is not None:
        path = None if surroundings.kubeconfig is None else str(surroundings.kubeconfig.absolute())
        yield f"kubernetes: {{kubeconfig: {json.dumps(path)}, context: {json.dumps(surroundings.context)}}}"
    else:
        yield "# kubernetes: {kubeconfig: null}   # null: the pod's service account, else ~/.kube/config"
    yield "data_dir: headstart-data         # history, journal and models; relative to this file"
    yield "# budget: {gpus: 16}             # never more GPUs than this, all workloads together"
    yield ""
    yield "defaults:                        # merged under each workload"
    yield "  mode: observe                  # active scales; set it for one workload at a time"
    yield "  latency:"
    yield "    slos: []                     # what you promise, such as [{ttft_p95_s: 0.8}, {e2e_p95_s: 10}]"
    yield ""
    yield "workloads:"


def _entries(proposals: Sequence[Proposal]) -> Iterator[str]:
    for each in proposals:
        found = each.candidate
        yield ""
        evidence = _comment("; ".join(text for text in found.evidence if text))
        served = f", serves {_comment(', '.join(found.model_names))}" if found.model_names else ""
        yield f"  # {found.kind}, {found.replicas} replicas now{served}; {evidence}"
        yield f"  - workload: {json.dumps(found.workload)}"
        yield from _profile(found.name, each.profile)
        reason = "half to twice the present scale" if found.replicas else "it stands at 0 and is left alone there"
        yield f"    bounds: {{min_replicas: {each.min_replicas}, max_replicas: {each.max_replicas}}}   # {reason}"
        if each.start_time is None:
            yield "    # start_time: 5m             # pod created → Ready; no Ready pod to measure it by"
        else:
            yield f"    start_time: {shown_duration(each.start_time)}   # pod created → Ready, median of its pods"
        if (found.api_version, found.kind) != ("apps/v1", "Deployment"):
            yield f"    target: {{api_version: {found.api_version}, kind: {found.kind}}}"
        yield from _selector(each)


def _profile(name: str, guess: ProfileGuess) -> Iterator[str]:
    if guess.shipped is not None:
        yield f"    profile: {guess.shipped}   # {guess.reason}"
        return
    yield "    profile:"
    yield f"      name: {json.dumps(name)}"
    yield f"      gpus: {guess.gpus}"
    yield f"      # {guess.reason}"
    yield f"      classes: [{{name: default, max_rps: {guess.max_rps:g}}}]"


def _selector(each: Proposal) -> Iterator[str]:
    if each.problem:
        yield f"    # CHANGE: {_comment(each.problem)}"
    selector = each.selector
    if selector is None:
        if each.problem:
            yield "    # selector: {labels: {model_name: …}}"
        return
    written = _written(selector)
    yield f"    selector: {{{written}}}" if written else "    # its series are found by its pods' names"


def _written(selector: WorkloadSelector) -> str:
    parts = []
    if not selector.namespaced:
        parts.append("namespaced: false")
    if selector.labels:
        pairs = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in selector.labels)
        parts.append(f"labels: {{{pairs}}}")
    if selector.deployment_label is not None:
        parts.append(f"deployment_label: {selector.deployment_label}")
    return ", ".join(parts)


def _left(left_out: Sequence[LeftOut]) -> Iterator[str]:
    if left_out:
        yield ""
        yield "# Not taken:"
        for each in left_out:
            yield f"#   {_comment(each.workload)}: {_comment(each.reason)}"


def _comment(text: str) -> str:
    """What a cluster says of itself, on one line: a line break in an image's name must not begin a setting."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
