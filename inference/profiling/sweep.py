"""The sweep itself: calibrate each class, raise its rate until the knee is passed, then mix the classes.

Order of things and nothing else: at which rate to go on stands in `ramp`, what is sent in `traffic`. It never waits
for an answer before it sends the next request, never disturbs a server that serves somebody else (unless told to),
and gives up what is in flight when it is stopped.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from inference.errors import ProfilingError
from inference.profiling.client import Answer, Server, Status
from inference.profiling.level import LevelRun, Played, Send, quiet
from inference.profiling.plan import MIXED, RequestClass, SweepPlan
from inference.profiling.ramp import (
    MIXED_RATIOS,
    Alone,
    Ended,
    LevelSeen,
    alone_of,
    beyond,
    bracketed,
    knee_rps,
    next_rate_rps,
)
from inference.profiling.raw import RawFile, open_raw
from inference.profiling.traffic import arrivals, body

Progress = Callable[[float, str], None]
"""Told how far things are (0 to 1) and what is done."""

LONE_REQUESTS = 3
"""One after the other, before a class's first level; the first warms up and is not counted."""
DRAIN_S = 30.0
"""After a level, for the answers that are still under way; longer where a lone answer takes over a tenth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a sweep ended."""

    complete: bool
    """Whether every class's knee is known and the mixed traffic was measured; else the same call goes on."""
    levels: int
    """Levels in the raw file."""
    why: str
    """In words."""


class _Spent(Exception):
    """Time or requests of this call are used up."""


async def sweep(
    url: str,
    plan: SweepPlan,
    path: Path,
    *,
    model: str | None = None,
    api_key: str | None = None,
    force: bool = False,
    progress: Progress = lambda _share, _text: None,
) -> Outcome:
    """Measure the server at `url` by `plan` and append everything to the raw file at `path`.

    Args:
        url: base address of an OpenAI-compatible server.
        plan: what to measure, and for how long at most.
        path: a new file, or that of an interrupted sweep of the same server and plan.
        model: as the server calls it; the only one it serves unless given.
        api_key: sent as a bearer token; never written anywhere.
        force: measure even if others use the server, or if its metrics page does not tell.
        progress: told how far things are.

    Raises:
        ProfilingError: the server does not answer as needed, serves somebody else, or the file is another sweep's.
    """
    async with Server(url, api_key=api_key) as server:
        name = model or await server.model()
        page = await quiet(server, force=force)
        head = {"url": server.url, "model": name, **plan.as_json()}
        raw = open_raw(path, head, started_at=datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            if page is not None and not raw.kept.levels:
                raw.write("facts", kv_tokens=page.kv_tokens)
            run = _Sweep(server, name, plan, raw, watched=page is not None, force=force, progress=progress)
            return await run.all()
        finally:
            raw.close()


class _Sweep:
    """One call of `sweep`, from its first look to the end of its budget."""

    def __init__(
        self,
        server: Server,
        model: str,
        plan: SweepPlan,
        raw: RawFile,
        *,
        watched: bool,
        force: bool,
        progress: Progress,
    ) -> None:
        self._server = server
        self._model = model
        self._plan = plan
        self._raw = raw
        self._level_run = LevelRun(server, max_in_flight=plan.max_in_flight, watched=watched and not force)
        self._progress = progress
        self._began_s = time.monotonic()
        self._sent = 0

    async def all(self) -> Outcome:
        """Everything that is not yet in the file, as far as the budget goes."""
        try:
            for index, one in enumerate(self._plan.classes):
                await self._ramp(one, share_s=self._left_s() / (len(self._plan.classes) - index + 1))
            await self._mix()
        except _Spent as spent:
            return Outcome(complete=False, levels=len(self._raw.kept.levels), why=str(spent))
        return Outcome(complete=True, levels=len(self._raw.kept.levels), why="all classes measured")

    # ── One class ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _ramp(self, one: RequestClass, *, share_s: float) -> None:
        """Levels of one class until its knee is known. A class that takes more than its share ends near it instead."""
        alone = await self._alone(one)
        ends_s = time.monotonic() + max(share_s, 0.0)
        while (rate_rps := next_rate_rps(self._seen(one.name), alone)) is not None:
            if time.monotonic() > ends_s and bracketed(self._seen(one.name), alone):
                return
            await self._level(one.name, rate_rps, {one.name: 1.0})

    async def _alone(self, one: RequestClass) -> Alone:
        """A class's lone times; measured with the words and the picture's tokens where the file has them not yet."""
        known = self._raw.kept.calibrated.get(one.name)
        if known is None:
            known = await self._calibrated(one)
            self._raw.write("calibrated", **known)
        return Alone(ttft_s=known["lone_ttft_s"], e2e_s=known["lone_e2e_s"])

    async def _calibrated(self, one: RequestClass) -> dict[str, Any]:
        """How many words make the prompt, how many tokens the picture has, and what a lone request takes."""
        self._say(f"{one.name}: alone")
        few = await self._one(one, word_count=10, seed=f"{self._plan.seed} {one.name} few", image=False)
        many = await self._one(one, word_count=110, seed=f"{self._plan.seed} {one.name} many", image=False)
        per_word = max(0.01, (many.prompt_tokens - few.prompt_tokens) / 100)
        frame = few.prompt_tokens - 10 * per_word  # what the template adds
        word_count = max(1, round((one.prompt_tokens - frame) / per_word))
        text_tokens = round(frame + per_word * word_count)
        lone = [
            await self._one(one, word_count=word_count, seed=f"{self._plan.seed} {one.name} lone {turn}")
            for turn in range(LONE_REQUESTS + 1)
        ][1:]
        alone = alone_of(
            [each.first_token_s - each.sent_s for each in lone if each.first_token_s is not None],
            [each.finished_s - each.sent_s for each in lone],
        )
        image_tokens = round(median(each.prompt_tokens for each in lone)) - text_tokens if one.has_image else 0
        return {
            "class": one.name,
            "words": word_count,
            "image_tokens": max(0, image_tokens),
            "lone_ttft_s": round(alone.ttft_s, 6),
            "lone_e2e_s": round(alone.e2e_s, 6),
        }

    async def _one(self, one: RequestClass, *, word_count: int, seed: str, image: bool = True) -> Answer:
        """One request with nothing beside it. Raises `ProfilingError` where it fails: nothing else would work then."""
        self._check_left(1)
        payload = body(self._model, one, word_count=word_count, seed=seed, with_image=image)
        answer = await self._server.ask(json.dumps(payload).encode())
        if answer.status is Status.CANCELLED:
            raise asyncio.CancelledError  # the sweep itself is being stopped
        if answer.status is not Status.OK:
            raise ProfilingError(
                subject=f"{self._server.url}, class {one.name}",
                problem=f"a lone request failed: {answer.error}",
                fix="does it fit into the model's context, and does the model take pictures?",
            )
        self._sent += 1
        return answer

    # ── All classes together ──────────────────────────────────────────────────────────────────────────────────

    async def _mix(self) -> None:
        """A few levels of all classes, at parts of what their own limits add up to."""
        if len(self._plan.classes) < 2:
            return
        shares = {each.name: each.share for each in self._plan.classes}
        load = 0.0  # of one request a second, in replicas
        for one in self._plan.classes:
            knee = knee_rps(self._seen(one.name), await self._alone(one))
            if knee is None:
                return
            load += shares[one.name] / sum(shares.values()) / knee
        for ratio in MIXED_RATIOS[len(self._seen(MIXED)) :]:
            await self._level(MIXED, ratio / load, shares)

    # ── One level ─────────────────────────────────────────────────────────────────────────────────────────────

    def _seen(self, name: str) -> list[LevelSeen]:
        """The levels of one class that are over, this call's and earlier ones'."""
        return [
            LevelSeen(
                rate_rps=each["rate_rps"],
                ended=Ended(each["ended"]),
                sent=each["sent"],
                failed=each["failed"],
                e2e_p50_s=each["e2e_p50_s"],
                late_ttft_p50_s=each["late_ttft_p50_s"],
            )
            for each in self._raw.kept.levels
            if each["class"] == name
        ]

    async def _level(self, name: str, rate_rps: float, shares: Mapping[str, float]) -> None:
        """Send at one rate, wait for the answers, and write it all down."""
        lone_s = max(self._raw.kept.calibrated[each]["lone_e2e_s"] for each in shares)
        length_s = max(self._plan.level_s, 4.0 * lone_s)
        sends = self._sends(self._raw.kept.next_level, rate_rps, shares, length_s)
        self._check_left(len(sends), length_s)
        self._say(f"{name}: {rate_rps:.3g} requests/s for {length_s:.0f} s")
        self._sent += len(sends)
        played = await self._level_run.play(sends, length_s=length_s, drain_s=max(DRAIN_S, 10.0 * lone_s))
        self._write_level(name, rate_rps, played)

    def _sends(self, number: int, rate_rps: float, shares: Mapping[str, float], length_s: float) -> list[Send]:
        """Every request of the level, made before its first is sent: making pictures takes time."""
        seed, by_name = f"{self._plan.seed} {number}", {each.name: each for each in self._plan.classes}
        sends: list[Send] = []
        for at_s, name in arrivals(rate_rps, shares, seed):
            if at_s >= length_s or len(sends) >= self._plan.max_requests:
                return sends
            word_count = self._raw.kept.calibrated[name]["words"]
            payload = body(self._model, by_name[name], word_count=word_count, seed=f"{seed} {len(sends)}")
            sends.append(Send(at_s=at_s, name=name, payload=json.dumps(payload).encode()))
        return sends

    def _write_level(self, name: str, rate_rps: float, played: Played) -> None:
        number, calibrated = self._raw.kept.next_level, self._raw.kept.calibrated
        for each, answer in played.answers:
            self._raw.write("request", level=number, **_request_line(each, answer, calibrated[each], played.began_s))
        for sample in played.samples:
            self._raw.write("sample", level=number, **asdict(sample))
        every = [answer for _, answer in played.answers]
        good = [answer for answer in every if answer.status is Status.OK]
        late = every[-max(1, len(every) // 3) :]
        seen = LevelSeen(
            rate_rps=round(rate_rps, 6),
            ended=played.ended,
            sent=len(every),
            failed=sum(answer.status is Status.FAILED for answer in every),
            e2e_p50_s=_median(answer.finished_s - answer.sent_s for answer in good),
            # who got no first token waited at least until the end
            late_ttft_p50_s=_median((answer.first_token_s or answer.finished_s) - answer.sent_s for answer in late),
        )
        self._raw.write(
            "level",
            level=number,
            **{"class": name},
            started_at=played.started_at,
            length_s=round(played.length_s, 3),
            **asdict(seen),
            cancelled=sum(answer.status is Status.CANCELLED for answer in every),
            beyond=beyond(seen, self._slowest_alone(each for each, _ in played.answers)),
        )

    def _slowest_alone(self, names: Iterable[str]) -> Alone:
        """The lone times of the slowest of these classes; of all where there are none."""
        calibrated = self._raw.kept.calibrated
        found = [calibrated[name] for name in set(names)] or list(calibrated.values())
        return Alone(ttft_s=max(each["lone_ttft_s"] for each in found), e2e_s=max(each["lone_e2e_s"] for each in found))

    # ── The budget ────────────────────────────────────────────────────────────────────────────────────────────

    def _left_s(self) -> float:
        return self._plan.budget_s - (time.monotonic() - self._began_s)

    def _check_left(self, requests: int, takes_s: float = 0.0) -> None:
        """Raises `_Spent` when the budget does not hold what comes next."""
        if self._left_s() < takes_s:
            raise _Spent(f"the budget of {self._plan.budget_s:g} s is spent")
        if self._sent + requests > self._plan.max_requests:
            raise _Spent(f"the budget of {self._plan.max_requests} requests is spent")

    def _say(self, text: str) -> None:
        self._progress(min(1.0, 1.0 - max(0.0, self._left_s()) / self._plan.budget_s), text)


def _request_line(name: str, answer: Answer, calibrated: Mapping[str, Any], began_s: float) -> dict[str, Any]:
    first_s = answer.first_token_s
    line: dict[str, Any] = {
        "class": name,
        "status": answer.status.value,
        "sent_s": round(answer.sent_s - began_s, 6),
        "prompt_tokens": answer.prompt_tokens,
        "image_tokens": calibrated["image_tokens"],
        "output_tokens": answer.output_tokens,
        "ttft_s": None if first_s is None else round(first_s - answer.sent_s, 6),
        "itl_s": None,
        "e2e_s": round(answer.finished_s - answer.sent_s, 6),
    }
    if first_s is not None and answer.output_tokens > 1:
        line["itl_s"] = round((answer.finished_s - first_s) / (answer.output_tokens - 1), 6)
    return {**line, "error": answer.error} if answer.error else line


def _median(values: Any) -> float | None:
    found = list(values)
    return round(median(found), 6) if found else None
