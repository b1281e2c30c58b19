"""`python -m scaler.rehearsal`: real vLLM servers on this machine, scaled ahead of a load that comes back.

Prints a line every few seconds and every change of the scale, leaves a picture, and takes everything down on Ctrl-C.
Exit 0 ok, 1 a part did not start, 2 usage.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scaler.config.check import duration_of
from scaler.rehearsal.load import Ask, Shooter
from scaler.rehearsal.notes import Line, Notes, in_words
from scaler.rehearsal.page import page
from scaler.rehearsal.recipe import MODEL, Plan, Ports, tiny_vllm
from scaler.rehearsal.rhythm import Rhythm
from scaler.rehearsal.stage import Stage, StageError

FIRST_BURST_IN = timedelta(minutes=8)
"""Time for the first server to start, a look-back to pass, and the order to come ahead of the burst."""

LOOK_EVERY_S = 5.0
SHOWN_LINES = 14
PAGE_EVERY_LINES = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C, or for `--for`."""
    options = _parser().parse_args(arguments)
    console = Console()
    if not (options.vllm / "headstart.stamp").is_file():
        console.print(f"error: no CPU build of vLLM in {options.vllm}: make vllm-env builds it (2.5 GB)", style="red")
        return 1
    begin = datetime.now(UTC).replace(second=0, microsecond=0) + FIRST_BURST_IN
    rhythm = Rhythm(first_burst_at=begin)
    recipe = tiny_vllm(options.vllm.resolve(), options.support.resolve())
    ports = Ports(**{name: port + options.port_offset for name, port in _PORTS.items()})
    try:
        with Stage(options.out, Plan(recipe=recipe, ports=ports), past=rhythm) as stage:
            console.print(
                f"Up: gateway {stage.gateway_url}, daemon {ports.url(ports.daemon)}, first burst {begin:%H:%M} UTC"
            )
            notes = Notes(rhythm=rhythm, max_rps=recipe.max_rps)
            asyncio.run(_rehearse(stage, notes, console, for_s=options.lasts, picture=options.out / "rehearsal.html"))
            console.print("Taking everything down …")
    except StageError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


_PORTS = {"servers": 8101, "gateway": 8180, "prometheus": 8190, "daemon": 8191}


async def _rehearse(stage: Stage, notes: Notes, console: Console, *, for_s: float | None, picture: Path) -> None:
    """Load, looks and lines until asked to stop."""
    rhythm = notes.rhythm
    shooter = Shooter(stage.gateway_url, Ask(model=MODEL, images_share=0.1), lambda at: _rate_rps(stage, rhythm, at))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, shooter.stopped.set)
    if for_s is not None:
        loop.call_later(for_s, shooter.stopped.set)
    shooting = asyncio.create_task(shooter.run())
    with Live(console=console, auto_refresh=False) as live:
        while not shooter.stopped.is_set():
            told = len(notes.changes)
            documents = await asyncio.to_thread(lambda: (stage.workload(), stage.decision(), stage.forecast()))
            notes.look(*documents, shooter.target, now=datetime.now(UTC))
            for change in notes.changes[told:]:
                console.print(in_words(change), style="bold")
            live.update(_table(notes.lines[-SHOWN_LINES:]), refresh=console.is_terminal)
            if len(notes.lines) % PAGE_EVERY_LINES == 0:
                await asyncio.to_thread(_draw, notes, picture)
            await asyncio.wait({shooting}, timeout=LOOK_EVERY_S)
    await shooting
    await asyncio.to_thread(_draw, notes, picture)
    console.print(f"{len(shooter.target.shots)} requests, {len(shooter.target.failed)} failed; picture: {picture}")
    for each in notes.ahead:
        console.print(f"ahead: {in_words(each)}")


def _draw(notes: Notes, picture: Path) -> None:
    if notes.lines:
        picture.write_text(page(notes), encoding="utf-8")


def _rate_rps(stage: Stage, rhythm: Rhythm, at: datetime) -> float:
    """Nothing before the first server is there: what a rehearsal begins with is no outage."""
    return rhythm.rate_rps(at) if stage.takes_requests() else 0.0


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("time", "load", "measured", "forecast", "wanted", "ready", "P95", "sent", "failed", "state"):
        table.add_column(name, justify="left" if name in ("time", "state") else "right")
    for each in lines:
        table.add_row(
            f"{each.at:%H:%M:%S}",
            f"{each.offered_rps:.1f}/s",
            _shown(each.measured_rps, "/s"),
            _shown(each.soon_rps, "/s"),
            "–" if each.wanted is None else str(each.wanted),
            "–" if each.ready is None else str(each.ready),
            _shown(each.p95_s, " s"),
            str(each.sent),
            str(each.failed),
            each.state,
        )
    return table


def _shown(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.1f}{unit}"


def _seconds(text: str) -> float:
    found = duration_of(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 25m or 90s")
    return found.total_seconds()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scaler.rehearsal", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--vllm", type=Path, default=Path(".venv-vllm"), help="the environment that make vllm-env built"
    )
    support = Path("tests/inference/vllm_env")
    parser.add_argument("--support", type=Path, default=support, help="the folder that holds slow_step.py")
    parser.add_argument("--out", type=Path, default=Path("headstart-demo/vllm"), help="folder for everything it leaves")
    parser.add_argument("--for", dest="lasts", type=_seconds, metavar="DURATION", help="end by itself, such as 25m")
    parser.add_argument("--port-offset", type=int, default=0, help="added to every port, where they are taken")
    return parser


if __name__ == "__main__":
    sys.exit(main())
