"""What Prometheus knows of the engines it scrapes, and by which selector each workload's series are found.

It decides which way to a workload's series works, by asking through the same source that the daemon reads. It never
takes series that two workloads share for one of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SourceError
from forecaster.sources.connection import Connection
from forecaster.sources.exchange import Answer, Question, Wire
from forecaster.sources.plan import DEMAND, ENGINE_METRIC
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.promql import POD_SUFFIX
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, Blind, BlindReason, Reading, SeriesKey, floor_to_step, value_of
from scaler.onboarding.candidates import Candidate

if TYPE_CHECKING:
    from forecaster.types import FloatArray

DEPLOYMENT_LABELS = ("deployment", "app", "app_kubernetes_io_name")
"""Labels that scrape configurations put a workload's name into."""

BEST_DAYS = 7
"""How far back the highest rate is looked for."""

_OF_SET = re.compile(r"(?P<name>.+)-\d{1,5}")
_OF_DEPLOYMENT = re.compile(rf"(?P<name>.+?)-{POD_SUFFIX}")
_NAME = re.compile(r"[^a-z0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One vLLM that is scraped, as its labels name it."""

    namespace: str
    pod: str
    model_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """How a workload's series are found, and the highest demand seen; `problem` where they are not, in words."""

    selector: WorkloadSelector | None = None
    best_rps: float | None = None
    problem: str = ""


def engines(connection: Connection) -> tuple[Engine, ...]:
    """Every vLLM that is scraped now. Raises `SourceError`."""
    text = f"count by (namespace, pod, model_name) ({ENGINE_METRIC})"
    (answer,) = Wire(connection).ask([Question(text=text)], deadline_s=connection.deadline_s)
    if not isinstance(answer, Answer):
        raise answer
    named = (row.labels for row in answer.rows)
    found = {
        Engine(namespace=each.get("namespace", ""), pod=each.get("pod", ""), model_name=each.get("model_name", ""))
        for each in named
    }
    return tuple(sorted(found, key=lambda each: (each.namespace, each.pod, each.model_name)))


# ── Workloads that only Prometheus knows ──────────────────────────────────────────────────────────────────────


def candidates_from(found: Sequence[Engine]) -> tuple[Candidate, ...]:
    """Workloads as the engines' pods are named; one for each model where series name no pod."""
    pods: dict[tuple[str, str, str], set[Engine]] = {}
    for each in found:
        pods.setdefault(_owner(each), set()).add(each)
    return tuple(
        Candidate(
            namespace=namespace,
            name=name,
            api_version="apps/v1",
            kind=kind,
            replicas=len({each.pod for each in members}),
            gpus=0,
            served_names=tuple(sorted({each.model_name for each in members if each.model_name})),
            evidence=(f"series of {len(members)} vLLM in Prometheus",),
        )
        for (namespace, name, kind), members in sorted(pods.items())
    )


def _owner(each: Engine) -> tuple[str, str, str]:
    """Namespace, name and kind of what an engine's pod belongs to, by the shape of its name."""
    namespace = each.namespace or "default"
    if (found := _OF_SET.fullmatch(each.pod)) is not None:
        return namespace, found["name"], "StatefulSet"
    if (found := _OF_DEPLOYMENT.fullmatch(each.pod)) is not None:
        return namespace, found["name"], "Deployment"
    plain = each.pod or each.model_name.rpartition("/")[2]
    return namespace, _NAME.sub("-", plain.lower()).strip("-") or "model", "Deployment"


# ── Ways to a workload's series ───────────────────────────────────────────────────────────────────────────────


def tied(
    connection: Connection, candidates: Sequence[Candidate], scraped: Sequence[Engine], *, now: datetime
) -> Mapping[str, Tie]:
    """The first way that leads to each workload's demand, by workload. Raises `SourceError`."""
    source = PrometheusSource(connection)
    ways = {each.workload: list(_ways(each, candidates, scraped)) for each in candidates}
    chosen: dict[str, WorkloadSelector] = {}
    for turn in range(max(map(len, ways.values()), default=0)):
        asked = [of[turn] for name, of in ways.items() if name not in chosen and turn < len(of)]
        checks = source.check(asked, now=now) if asked else ()
        live = {check.workload for check in checks if check.signal == DEMAND and check.found}
        chosen |= {selector.workload: selector for selector in asked if selector.workload in live}
    seen = source.read(tuple(chosen.values()), now=now).values if chosen else {}
    shared = {key.workload for key, reading in seen.items() if _is_shared(reading)}
    apart = [selector for name, selector in chosen.items() if name not in shared]
    rates = [_rates_now(seen), _best_rates(source, apart, now=now)]
    best = {name: max(of.get(name, 0.0) for of in rates) for name in chosen}
    return {each.workload: _tie(each, chosen.get(each.workload), shared, best) for each in candidates}


def _ways(each: Candidate, all_of_them: Sequence[Candidate], scraped: Sequence[Engine]) -> Iterator[WorkloadSelector]:
    """By the pods' names, by a label with the workload's name, by a model that nobody else serves."""
    plain = WorkloadSelector.for_workload(each.namespace, each.name)
    if any(engine.namespace for engine in scraped):
        yield plain
        for label in DEPLOYMENT_LABELS:
            yield replace(plain, deployment_label=label)
    for model in each.model_names:
        others = [one for one in all_of_them if one is not each and model in one.model_names]
        if others:
            continue
        labels = (("model_name", model),)
        if any(engine.model_name == model and engine.namespace == each.namespace for engine in scraped):
            yield replace(plain, labels=labels)
        elif any(engine.model_name == model and not engine.namespace for engine in scraped):
            yield WorkloadSelector(workload=each.workload, namespaced=False, labels=labels)


def _is_shared(reading: Reading) -> bool:
    """Whether a selector matches another workload's series too."""
    return isinstance(reading, Blind) and reading.reason is BlindReason.AMBIGUOUS


def _rates_now(seen: Mapping[SeriesKey, Reading]) -> dict[str, float]:
    """The demand of now by workload, all request classes together; requests per second."""
    rates: dict[str, float] = defaultdict(float)
    for key, reading in seen.items():
        if key.signal == DEMAND:
            rates[key.workload] += value_of(reading) or 0.0
    return rates


def _best_rates(source: PrometheusSource, selectors: Sequence[WorkloadSelector], *, now: datetime) -> dict[str, float]:
    """The highest demand of five minutes in the last days, as above; nothing where the past cannot be had."""
    end, step = floor_to_step(now), 5 * STEP
    try:
        panel = source.history(selectors, DEMAND, start=end - timedelta(days=BEST_DAYS), end=end, step=step)
    except SourceError:
        return {}  # only a better guess is lost
    rates: dict[str, FloatArray] = {}
    for key, row in zip(panel.keys, np.nan_to_num(panel.values), strict=True):
        rates[key.workload] = rates.get(key.workload, np.zeros_like(row)) + row
    return {name: float(row.max(initial=0.0)) for name, row in rates.items()}


def _tie(each: Candidate, selector: WorkloadSelector | None, shared: set[str], best: Mapping[str, float]) -> Tie:
    if selector is None:
        names = f" and model_name {' or '.join(each.model_names)}" if each.model_names else ""
        problem = f"no live demand by its pods' names, a label with its name{names}: set selector yourself"
        return Tie(problem=problem)
    if each.workload in shared:
        problem = "its selector matches another workload's series as well: give each labels of its own"
        return Tie(selector=selector, problem=problem)
    return Tie(selector=selector, best_rps=best.get(each.workload))
