"""`tick`: one decision round in this process, printed."""

from __future__ import annotations

from pathlib import Path

from scaler.commands.printing import Output
from scaler.commands.watching import put_decisions
from scaler.errors import CommandError


def tick(path: Path, *, dry_run: bool, workload: str | None, output: Output) -> None:
    """One decision round over the whole fleet; `workload` only narrows what is printed."""
    from scaler.adapters.settings import read_settings

    config = read_settings(path)
    if workload is not None and config.policy(workload) is None:
        known = ", ".join(policy.workload for policy in config.fleet.workloads)
        raise CommandError(f"no workload {workload!r} in {path}; known: {known}")
    from scaler.adapters import logs
    from scaler.adapters.documents import decision_document
    from scaler.daemon import tick_once

    logs.configure()
    report = tick_once(config, dry_run=dry_run)
    documents = [
        decision_document(record, report.outcomes.get(record.policy.workload))
        for record in report.records
        if workload in (None, record.policy.workload)
    ]
    put_decisions(documents, output)
