"""`profile`: measure a server, and turn what was measured into a capacity profile, a picture and a table.

`inference` measures and `scaler.profiling` fits; here they only meet. The raw file is kept, and without an address it
is all that is read.
"""

from __future__ import annotations

import asyncio
import math
import os
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaler.commands.printing import Output, progress_bar, put_json, put_table, say
from scaler.commands.typed import without_nan
from scaler.errors import CommandError

if TYPE_CHECKING:
    from inference.profiling.sweep import Outcome
    from scaler.profiling.derive import Derived

INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is to be measured, as typed."""

    url: str | None
    raw: Path
    classes: tuple[str, ...]
    level: timedelta
    budget: timedelta
    seed: int
    max_requests: int
    model: str | None
    api_key_file: Path | None
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What the replica must keep, and what a sweep cannot know of it, as typed."""

    ttft: timedelta | None
    itl: timedelta | None
    e2e: timedelta | None
    gpus: int
    start: timedelta
    max_num_seqs: int | None
    kv_tokens: int | None
    max_num_batched_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to come out, as typed."""

    name: str | None
    out: Path
    page: Path | None
    output: Output


def profile(measured: Measured, replica: Replica, wanted: Wanted) -> int:
    """Measure if there is an address, then derive and write. Answers 0, or 130 after Ctrl-C.

    Raises `CommandError` and `DataError`.
    """
    if measured.url is not None:
        try:
            outcome = _sweep(measured)
        except KeyboardInterrupt:
            say(f"interrupted; the levels that are over are in {measured.raw}, and the same command goes on from there")
            return INTERRUPTED
        say(f"{measured.raw}: {outcome.levels} levels; {outcome.why}")
        if not outcome.complete:
            say("the same command goes on from there; what follows is from the levels so far")
    derived = _derived(measured.raw, replica, wanted)
    _write(derived, wanted)
    if wanted.output is Output.JSON:
        put_json(without_nan(_document(derived)))
    else:
        _put(derived)
    for note in derived.notes:
        say(f"note: {note}")
    say(f"wrote {wanted.out}" + (f" and {wanted.page}" if wanted.page else ""))
    return 0


def _sweep(measured: Measured) -> Outcome:
    from inference.errors import InferenceError
    from inference.profiling.plan import DEFAULT_CLASSES, SweepPlan, read_class
    from inference.profiling.sweep import sweep

    assert measured.url is not None
    try:
        plan = SweepPlan(
            classes=tuple(read_class(each) for each in measured.classes) or DEFAULT_CLASSES,
            level_s=measured.level.total_seconds(),
            budget_s=measured.budget.total_seconds(),
            max_requests=measured.max_requests,
            seed=measured.seed,
        )
        with progress_bar() as progress:
            return asyncio.run(
                sweep(
                    measured.url,
                    plan,
                    measured.raw,
                    model=measured.model,
                    api_key=_key(measured.api_key_file),
                    force=measured.force,
                    progress=progress,
                )
            )
    except InferenceError as error:
        raise CommandError(str(error)) from error


def _key(file: Path | None) -> str | None:
    """The server's key, from the file or vLLM's own variable; it is never written or shown."""
    return file.read_text(encoding="utf-8").strip() if file is not None else os.environ.get("VLLM_API_KEY")


def _derived(raw: Path, replica: Replica, wanted: Wanted) -> Derived:
    from scaler.profiling.derive import Asked, derive
    from scaler.profiling.raw_sweep import read_raw_sweep
    from scaler.service.model import LatencySlo

    sweep = read_raw_sweep(raw)
    return derive(
        sweep,
        Asked(
            name=wanted.name or wanted.out.stem,
            slo=LatencySlo(ttft_s=_seconds(replica.ttft), itl_s=_seconds(replica.itl), e2e_s=_seconds(replica.e2e)),
            gpus=replica.gpus,
            start_s=replica.start.total_seconds(),
            max_num_seqs=replica.max_num_seqs,
            kv_tokens=replica.kv_tokens,
            max_num_batched_tokens=replica.max_num_batched_tokens,
        ),
    )


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def _write(derived: Derived, wanted: Wanted) -> None:
    from scaler.config import read_profile
    from scaler.profiling.profile_file import profile_of, write_profile

    write_profile(wanted.out, profile_of(derived))
    read_profile(wanted.out)  # what settings refuse must not look like a profile
    if wanted.page is not None:
        from scaler.profiling.picture import render

        wanted.page.write_text(render(derived), encoding="utf-8")


# ── What is printed ───────────────────────────────────────────────────────────────────────────────────────────


def _put(derived: Derived) -> None:
    columns = ("CLASS", "TOKENS IN", "OUT", "MAX RPS", "KEPT", "MISSED", "MODELLED", "E2E P95")
    rows = [
        (
            each.name,
            f"{each.shape.input_tokens:.0f}",
            f"{each.shape.output_tokens:.0f}",
            f"{each.max_rps:.3g}",
            f"{each.kept_rps:.3g}",
            "–" if each.missed_rps is None else f"{each.missed_rps:.3g}",
            f"{each.modelled_rps:.3g}",
            f"{each.p95_s:.2f} s",
        )
        for each in derived.limits
    ]
    put_table(columns, rows, right=columns[1:])
    fit = derived.fit
    figures = [("α", f"{1e3 * derived.service.alpha_s:.3g} ms an iteration")]
    if fit.identified:
        figures += [
            ("β", f"{1e6 * fit.beta_s:.3g} µs a token"),
            ("γ", f"{1e9 * fit.gamma_s:.3g} ns a held token"),
            ("δ", f"{1e3 * fit.per_sequence_s:.3g} ms a sequence"),
        ]
    else:
        figures += [
            (f"b {each.request_class}", f"{1e3 * each.per_sequence_s:.3g} ms a sequence") for each in fit.curves
        ]
    if fit.encoder_base_s or fit.encoder_per_token_s:
        per_token = f" + {1e6 * fit.encoder_per_token_s:.3g} µs a token" if fit.encoder_per_token_s else ""
        figures.append(("encoder", f"{1e3 * fit.encoder_base_s:.3g} ms a picture{per_token}"))
    if fit.overhead_s is not None:
        more = f", {1e3 * fit.image_overhead_s:.3g} ms more for a picture" if fit.image_overhead_s else ""
        figures.append(("front end", f"{1e3 * fit.overhead_s:.3g} ms a request{more}"))
    figures.append(("batch", f"{derived.service.max_num_seqs} sequences, {derived.service.kv_tokens} tokens"))
    figures.append(
        ("residual", f"{100 * fit.residual_ratio:.1f} % of {fit.requests} requests, {fit.rejected} outliers")
    )
    put_table(("FIT", ""), figures)
    checks = ("LEFT OUT", "RATE", "THROUGHPUT", "TTFT P50", "ITL P50", "E2E P50", "E2E P95")
    checked = [
        (each.level.name, f"{each.level.rate_rps:.3g}", *(f"{round(100 * off):+d} %" for off in each.off.values()))
        for each in derived.checks
    ]
    put_table(checks, checked, right=checks[1:])


def _document(derived: Derived) -> dict[str, Any]:
    return {
        "apiVersion": "headstart/v1",
        "kind": "ProfileReport",
        "name": derived.asked.name,
        "model": derived.sweep.model,
        "service": asdict(derived.service),
        "fit": asdict(derived.fit),
        "classes": [{**asdict(each), "max_rps": each.max_rps} for each in derived.limits],
        "checks": [
            {
                "class": each.level.name,
                "rate_rps": each.level.rate_rps,
                "measured": each.measured,
                "predicted": each.predicted,
                "worst_off_ratio": each.worst[1] if math.isfinite(each.worst[1]) else None,
            }
            for each in derived.checks
        ],
        "notes": list(derived.notes),
    }
