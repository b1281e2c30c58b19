"""The tables of docs/benchmark.md, made by one command: `make tables`, or `published.py TRACES_DIR`.

It decides what is run (every policy on every long trace, every forecaster beside it) and how a result becomes a cell.
It picks nothing: no trace, policy or cold start is left out for what it shows, and what wins against the product is
listed as such. A result is kept under .benchmarks/ until the code, the models or the trace change, so that a run that
was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "benchmark.md"
README = REPO / "README.md"
CACHE = REPO / ".benchmarks" / "published"
CODE = ("forecaster/**/*.py", "scaler/policy/*.py", "scaler/simulate/*.py", "scaler/simulate/policies/*.py",
        "scaler/loop.py", "scaler/ports.py", "data/models/**/*")  # fmt: skip
"""What a result depends on beside its trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A trace of at least a week, and the days of it that are scored: [from, to), the last four unless given."""

    name: str
    column: str = "requests"
    score_from: str | None = None
    score_to: str | None = None


TRACES = (
    Scored(name="nasa_1995_july"),
    Scored(name="worldcup98_june", score_from="1998-06-22", score_to="1998-06-26"),
    Scored(name="burstgpt_week1_tokens", column="total_tokens", score_from="2000-01-07"),
    Scored(name="servegen_mlarge_1min_disagg"),
    Scored(name="servegen_mlarge_10min"),
    Scored(name="crane_input0"),
    Scored(name="crane_input2"),
    Scored(name="crane_input9", score_from="2021-10-19", score_to="2021-10-23"),
)
COLD_STARTS_MIN = (3, 9)
PRODUCT = "headstart"
RIVALS = (
    "reactive", "hpa-plain", "hpa", "hpa-pods", "kpa", "llmd", "dynamo", "last-value", "seasonal-naive", "schedule",
)  # fmt: skip
"""What people run or could run, in the order of the tables; what the catalogue has besides follows them."""
HINDSIGHT = ("static-peak", "static-mean", "oracle", "oracle-instant")
"""What knows the scored days before they come: bounds, not rivals."""
MAY_MISS = 0.01
"""The product's target, and what a tuned rival may miss."""
WINDOW = "300s"
"""The HPA's own scale-in window …"""
OTHER_WINDOWS = ("0s", "60s", "120s", "600s", "900s")
"""… and those that are tried where it is tuned as well."""
HORIZONS_MIN = (5, 15, 30)
MODELS = (PRODUCT, "last-value", "seasonal-naive")
SEED = 1
"""Of the fits, made again each night of what `backtest` scores."""


# ── What is run ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One result: policies on a trace at a cold start, or (without one) the forecasters' accuracy on it."""

    trace: Scored
    cold_start_min: int | None
    policies: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.cold_start_min is None:
            return f"{self.trace.name}: forecasts"
        what = self.policies[0] if len(self.policies) == 1 else f"{len(self.policies)} policies"
        return f"{self.trace.name}: {what} at {self.cold_start_min} min"


def jobs() -> tuple[Job, ...]:
    """All of them, the longest first, so that no core idles at the end behind a late one."""
    product = [Job(trace=trace, cold_start_min=lead, policies=(PRODUCT,)) for trace, lead in _cells()]
    backtests = [Job(trace=trace, cold_start_min=None) for trace in TRACES]
    tuned = [Job(trace=trace, cold_start_min=lead, policies=_tunings()) for trace, lead in _cells()]
    others = [Job(trace=trace, cold_start_min=lead, policies=_others()) for trace, lead in _cells()]
    return (*backtests, *tuned, *product, *others)


def _tunings() -> tuple[str, ...]:
    """The HPA finely, at every whole percent with its own window and at every other one with others; and every other
    rival's knob as a sweep tries it."""
    from scaler.simulate.policies import KNOBS

    fine = [f"hpa:{percent / 100:g}:{WINDOW}" for percent in range(30, 101)]
    wide = [f"hpa:{percent / 100:g}:{window}" for window in OTHER_WINDOWS for percent in range(30, 101, 2)]
    knobs = [name for family, names in KNOBS.items() if family != "hpa" for name in names]
    return tuple(dict.fromkeys([*fine, *wide, *knobs]))


def _cells() -> list[tuple[Scored, int]]:
    return [(trace, lead) for trace in TRACES for lead in COLD_STARTS_MIN]


def _others() -> tuple[str, ...]:
    from scaler.simulate.trace import known_policies

    known = tuple(name.removesuffix(":u") for name in known_policies(()))
    rivals = [name for name in RIVALS if name in known]
    rivals += [name for name in known if name not in (PRODUCT, *RIVALS, *HINDSIGHT)]
    return (*rivals, *(name for name in HINDSIGHT if name in known))


def worked_out(job: Job, folder: Path) -> Any:
    """The job's result as plain data; runs in a process of its own."""
    from forecaster import registry
    from forecaster.trace import read_trace

    trace = read_trace(folder / f"{job.trace.name}.csv.gz", column=job.trace.column)
    members = registry.members(step=trace.series.step).forecasters
    return _accuracy(job, trace, members) if job.cold_start_min is None else _scores(job, trace, members)


def _scores(job: Job, trace: Any, members: Any) -> dict[str, Any]:
    from scaler.simulate.trace import Setting, simulate

    assert job.cold_start_min is not None
    setting = Setting(
        cold_start=timedelta(minutes=job.cold_start_min),
        score_from=_moment(job.trace.score_from),
        score_to=_moment(job.trace.score_to),
    )
    run = simulate(trace, job.policies, setting, members=members)
    return {
        name: {
            "missed": each.under_provisioned_ratio,
            "ratio": each.gpu_ratio,
            "starts": each.pod_starts,
        }
        for name, each in run.scores.items()
    }


def _accuracy(job: Job, trace: Any, members: Any) -> dict[str, Any]:
    from forecaster.backtest import Window, backtest, default_window
    from forecaster.refitting import fitted_members
    from forecaster.types import Series

    series = trace.series
    end = _moment(job.trace.score_to) or series.end
    bins = (end - series.start) // series.step
    known = Series(start=series.start, step=series.step, values=series.values[:bins])
    begin = _moment(job.trace.score_from) or default_window(known).score_from
    steps = tuple(-(-timedelta(minutes=each) // series.step) for each in HORIZONS_MIN)
    results = backtest(
        known,
        members,
        window=Window(score_from=begin, score_to=end),
        horizons=steps,
        refit=lambda panel: fitted_members(panel, until=panel.end, seed=SEED).forecasters,
    )
    return {
        model: [
            {"horizon_s": each.horizon_s, "wape": each.wape, "coverage": each.coverage[0.95],
             "pinball": each.pinball[0.95]}
            for each in results if each.model == model
        ]
        for model in MODELS
    }  # fmt: skip


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


# ── Running them ──────────────────────────────────────────────────────────────────────────────────────────────


class Kept:
    """Results on disk, each under a hash of what it depends on."""

    def __init__(self, folder: Path) -> None:
        self._traces = folder
        code = hashlib.sha256()
        for path in sorted({each for pattern in CODE for each in REPO.glob(pattern) if each.is_file()}):
            code.update(str(path.relative_to(REPO)).encode() + b"\0" + path.read_bytes())
        self._code = code.hexdigest()

    def path(self, job: Job) -> Path:
        """Where the job's result lies, or will."""
        trace = (self._traces / f"{job.trace.name}.csv.gz").read_bytes()
        what = json.dumps([self._code, hashlib.sha256(trace).hexdigest(), asdict(job)]).encode()
        return CACHE / f"{hashlib.sha256(what).hexdigest()[:24]}.json"

    def find(self, job: Job) -> Any | None:
        """The job's result if it was worked out before."""
        path = self.path(job)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def keep(self, job: Job, result: Any) -> None:
        """Store it, whole or not at all."""
        path = self.path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(path)


def results_of(wanted: Sequence[Job], folder: Path, *, processes: int) -> tuple[dict[Job, Any], dict[Job, str]]:
    """Every job's result, old or new, and the errors of those that failed."""
    kept = Kept(folder)
    done = {job: result for job in wanted if (result := kept.find(job)) is not None}
    failed: dict[Job, str] = {}
    left = [job for job in wanted if job not in done]
    _say(f"{len(wanted)} results: {len(done)} are there, {len(left)} to work out in {processes} processes")
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process a core is threads enough
    began = time.monotonic()
    with ProcessPoolExecutor(max_workers=processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(worked_out, job, folder): job for job in left}
        for future in as_completed(running):
            job = running[future]
            try:
                done[job] = future.result()
            except Exception as error:
                failed[job] = f"{type(error).__name__}: {error}"
            else:
                kept.keep(job, done[job])
            place = len(wanted) - len(left) + sum(each.done() for each in running)
            _say(f"[{place}/{len(wanted)} {time.monotonic() - began:4.0f} s] {job}{' FAILED' * (job in failed)}")
    return done, failed


# ── From results to tables ────────────────────────────────────────────────────────────────────────────────────

Table = list[list[str]]
"""A head and rows of cells."""
Scores = Mapping[str, Mapping[str, float]]
"""By policy: missed share, GPU ratio, pod starts."""


def tables(results: Mapping[Job, Any]) -> dict[str, Table]:
    """Every table of the page, by the name of its place."""
    scores = _by_trace(results)
    accuracy = {job.trace.name: result for job, result in results.items() if job.cold_start_min is None}
    made = {f"decisions-{lead}": _decisions(scores, lead) for lead in COLD_STARTS_MIN}
    made["standing"] = _standing(scores)
    for measure in ("wape", "coverage", "pinball"):
        made[f"forecasts-{measure}"] = _forecasts(accuracy, measure)
    return made


def summary(results: Mapping[Job, Any]) -> dict[str, Table]:
    """The table of the README: the product beside the HPA as people run it and the best HPA in hindsight."""
    scores, (wanted, limit) = _by_trace(results), _TUNED["hpa, utilisation and window tuned to 1 %"]
    columns = ("headstart", "HPA at 70 %", "best HPA in hindsight")
    table = [["traffic", *(f"{each}, {lead} min" for lead in COLD_STARTS_MIN for each in columns)]]
    for trace in TRACES:
        cells = []
        for lead in COLD_STARTS_MIN:
            here = scores[trace.name, lead]
            best = tuned(here, wanted, at_most=limit(here))
            shown = [here[PRODUCT], here["hpa"], here[best] if best else None]
            cells += [f"{100 * each['missed']:.2f} @ {each['ratio']:.2f}" if each else "–" for each in shown]
        table.append([_short(trace.name), *cells])
    return {"summary": table}


def _by_trace(results: Mapping[Job, Any]) -> dict[tuple[str, int], dict[str, dict[str, float]]]:
    """Scores of the policies, by trace and cold start."""
    scores: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    for job, result in results.items():
        if job.cold_start_min is not None:
            scores.setdefault((job.trace.name, job.cold_start_min), {}).update(result)
    return scores


def _decisions(scores: Mapping[tuple[str, int], Scores], lead: int) -> Table:
    """A row a policy, a column a trace: missed % @ GPU ratio (pod starts)."""
    here = {trace.name: scores[trace.name, lead] for trace in TRACES}
    table = [["policy", *(_short(name) for name in here)]]
    for policy in (PRODUCT, *_others()):
        shown = f"**{policy}**" if policy == PRODUCT else policy
        table.append([shown, *(_cell(each[policy]) for each in here.values())])
    for label, (wanted, limit) in _TUNED.items():
        best = [tuned(each, wanted, at_most=limit(each)) for each in here.values()]
        cells = [f"{_cell(each[name])} {name}" if name else "–" for name, each in zip(best, here.values(), strict=True)]
        table.insert(-len(HINDSIGHT), [label, *cells])
    return table


_TUNED: dict[str, tuple[Callable[[str], bool], Callable[[Scores], float]]] = {
    "hpa, utilisation tuned to 1 %": (lambda name: _is_hpa(name) and name.endswith(f":{WINDOW}"), lambda _: MAY_MISS),
    "hpa, utilisation and window tuned to 1 %": (lambda name: _is_hpa(name), lambda _: MAY_MISS),
    "the same, tuned to headstart's misses": (lambda name: _is_hpa(name), lambda scores: scores[PRODUCT]["missed"]),
    "any rival, tuned to headstart's misses": (lambda name: ":" in name, lambda scores: scores[PRODUCT]["missed"]),
}


def _is_hpa(name: str) -> bool:
    return name.startswith("hpa:")


def tuned(scores: Scores, wanted: Callable[[str], bool], *, at_most: float) -> str | None:
    """Of the policies wanted the one of the lowest GPU ratio that misses no more than that; None if none does."""
    fits = [name for name, each in scores.items() if wanted(name) and each["missed"] <= at_most + 1e-12]
    return min(fits, key=lambda name: (scores[name]["ratio"], scores[name]["missed"]), default=None)


def better_than_product(scores: Scores) -> list[str]:
    """Rivals at their defaults that miss no more and cost no more, and are ahead in one of the two."""
    ours = scores[PRODUCT]
    return [
        name
        for name, each in scores.items()
        if name not in HINDSIGHT
        and ":" not in name  # a setting chosen in hindsight
        and each["missed"] <= ours["missed"]
        and each["ratio"] <= ours["ratio"]
        and (each["missed"], each["ratio"]) != (ours["missed"], ours["ratio"])
    ]


def _standing(scores: Mapping[tuple[str, int], Scores]) -> Table:
    """Where the product stands on each trace: against its own target, its rivals, and the HPA tuned in hindsight."""
    table = [[
        "trace", "cold start", "missed %", "GPU ratio", "against the tuned hpa", "against any tuned rival",
        "beaten on both axes by",
    ]]  # fmt: skip
    for trace, lead in _cells():
        here = scores[trace.name, lead]
        ours = here[PRODUCT]
        against = [_against(here, wanted) for wanted in (_is_hpa, lambda name: ":" in name)]
        missed = f"{100 * ours['missed']:.2f}"
        table.append([
            _short(trace.name), f"{lead} min", f"**{missed}**" if ours["missed"] > 1.2 * MAY_MISS else missed,
            f"{ours['ratio']:.2f}", *against, ", ".join(better_than_product(here)) or "–",
        ])  # fmt: skip
    return table


def _against(scores: Scores, wanted: Callable[[str], bool]) -> str:
    """How much more or less GPU time the product takes than the best that was tuned to its misses."""
    best = tuned(scores, wanted, at_most=scores[PRODUCT]["missed"])
    return f"{100 * (scores[PRODUCT]['ratio'] / scores[best]['ratio'] - 1):+.1f} %" if best else "none misses as little"


def _cell(score: Mapping[str, float]) -> str:
    return f"{100 * score['missed']:.2f} @ {score['ratio']:.2f} ({score['starts']:.0f})"


def _forecasts(accuracy: Mapping[str, Any], measure: str) -> Table:
    """A row a trace, three columns a model: one for each horizon."""
    at = [f"{each} min" for each in HORIZONS_MIN]
    table = [["trace", *(f"{model} {each}" for model in MODELS for each in at)]]
    digits = 2 if measure == "pinball" else 3
    for trace in TRACES:
        figures = [each[measure] for model in MODELS for each in accuracy[trace.name][model]]
        table.append([_short(trace.name), *(f"{each:.{digits}f}" for each in figures)])
    return table


def _short(name: str) -> str:
    return name.replace("_", " ")


# ── Onto the page ─────────────────────────────────────────────────────────────────────────────────────────────

_PLACE = "<!-- table: {} -->\n{}<!-- end -->"


def rendered(table: Table) -> str:
    """The table in Markdown."""
    head, *rows = table
    lines = [f"| {' | '.join(cells)} |" for cells in ([*head], ["---", *["---:"] * (len(head) - 1)], *rows)]
    return "\n".join(lines) + "\n"


def parsed(text: str) -> Table:
    """A rendered table's cells; empty for no table."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if not set("".join(line)) <= set("-: ")]


def placed(page: str, made: Mapping[str, Table]) -> tuple[str, list[str]]:
    """The page with its tables renewed, and every cell that changed: "table, row, column: before → after"."""
    changes: list[str] = []
    for name, table in made.items():
        found = re.search(_PLACE.format(re.escape(name), "(.*?)"), page, re.DOTALL)
        if found is None:
            raise ValueError(f"the page has no place for the table {name}: {_PLACE.format(name, '')!r}")
        before, after = _cells_of(parsed(found[1])), _cells_of(table)
        changes += [
            f"{name}, {', '.join(key)}: {before.get(key, 'new')} → {after.get(key, 'gone')}"
            for key in dict.fromkeys([*after, *before])
            if before.get(key) != after.get(key)
        ]
        page = page[: found.start()] + _PLACE.format(name, rendered(table)) + page[found.end() :]
    return page, changes


def _cells_of(table: Table) -> dict[tuple[str, ...], str]:
    """Cells by row and column; a row is named by its first cell, and its second where several share the first."""
    if not table:
        return {}
    head, *rows = table
    firsts = [row[0].strip("*") for row in rows]
    names = {
        index: first if firsts.count(first) == 1 else f"{first} {rows[index][1]}" for index, first in enumerate(firsts)
    }
    return {
        (names[index], column): cell
        for index, row in enumerate(rows)
        for column, cell in zip(head[1:], row[1:], strict=True)
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Work everything out, write the page, print what changed. 1 if a result failed: the page is left as it was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("traces", nargs="?", type=Path, default=REPO.parent / "shared" / "traces", metavar="TRACES_DIR")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="where the tables go")
    parser.add_argument("--readme", type=Path, default=README, metavar="FILE", help="where their summary goes")
    options = parser.parse_args(arguments)
    missing = [each.name for each in TRACES if not (options.traces / f"{each.name}.csv.gz").is_file()]
    if missing:
        _say(f"{options.traces} lacks {', '.join(missing)}; docs/benchmark.md says where they come from")
        return 2
    done, failed = results_of(jobs(), options.traces.resolve(), processes=options.processes)
    for job, why in failed.items():
        _say(f"failed: {job}: {why}")
    if failed:
        _say("the page is left as it was; what was worked out is kept, so run this again when the cause is gone")
        return 1
    changes: list[str] = []
    for file, made in ((options.page, tables(done)), (options.readme, summary(done))):
        page, changed = placed(file.read_text(encoding="utf-8"), made)
        file.write_text(page, encoding="utf-8")
        changes += changed
    sys.stdout.write("".join(f"{line}\n" for line in changes) or "nothing changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
