"""What the shell's tests share: finished ticks to start from, and patience with a real server."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from dataclasses import replace
from datetime import datetime
from typing import Any

from forecaster.types import Blind
from policy_cases import NOON
from scaler.loop import TickReport
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.types import Decision, PolicyState, Snapshot
from scaler.ports import DecisionRecord, Outcome, OutcomeKind

SCRAPED_WITHIN_S = 120.0
"""At most. On an idle machine it takes the five seconds that Prometheus waits for its targets, and one window."""


def a_tick(
    snapshot: Snapshot,
    policy: WorkloadPolicy,
    *,
    state: PolicyState | None = None,
    outcome: OutcomeKind | None = None,
    found: int | None = None,
    now: datetime = NOON,
    journal_error: str = "",
) -> TickReport:
    """The report of a tick over one workload, decided by the shipping code."""
    before = state or PolicyState()
    decision, after = decide(snapshot, before, policy, now=now)
    record = DecisionRecord(at=now, policy=policy, snapshot=snapshot, state=before, grant=None, decision=decision)
    outcomes = {} if outcome is None else {policy.workload: Outcome(kind=outcome, detail="as told", found=found)}
    return TickReport(
        at=now,
        records=(record,),
        signals={},
        outcomes=outcomes,
        states={policy.workload: after},
        journal_error=journal_error,
    )


def tampered(report: TickReport, **changes: Any) -> TickReport:
    """The same tick with another decision: what a defect of the decision code would leave behind."""
    record = report.records[0]
    decision: Decision = replace(record.decision, **changes)
    return replace(report, records=(replace(record, decision=decision),))


def without_replicas(snapshot: Snapshot, blind: Blind) -> Snapshot:
    """The snapshot as it is when the cluster does not answer."""
    return replace(snapshot, replicas=blind)


def await_scrapes(url: str, *, model_name: str, window_s: int = 10, least_rps: float = 0.0) -> None:
    """Until a Prometheus has scraped a served model's page often enough for a rate, and the rate is `least_rps`.

    A rate over a window that is not full yet reads low: a few samples count as if there had been none before.
    """
    series = f'vllm:request_success_total{{model_name="{model_name}"}}[{window_s}s]'
    asked = f"rate({series}) >= {least_rps} and count_over_time({series}) >= 4"
    ends = time.monotonic() + SCRAPED_WITHIN_S
    while not _answered(f"{url}/api/v1/query?query={urllib.parse.quote(asked)}"):
        assert time.monotonic() < ends, f"Prometheus does not scrape {model_name}"
        time.sleep(0.1)


def _answered(url: str) -> bool:
    """Whether a query has a result; a server that does not answer in time has none yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(json.load(answer)["data"]["result"])
    except OSError:
        return False
