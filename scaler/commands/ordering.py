"""Orders by hand, as the command line takes them: pause, resume, override, enable, observe.

Names, options and help texts; `scaler.cli` registers them, and `scaler.commands.control` carries them out.
"""

from __future__ import annotations

from typing import Annotated

import typer

from scaler.commands.options import (
    Every,
    MaybeWorkload,
    OrderDataDir,
    OrderUrl,
    OutputFormat,
    TokenFile,
    Why,
    Workload,
)
from scaler.commands.printing import Output


def pause(
    workload: MaybeWorkload = None,
    every: Every = False,
    reason: Why = "",
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Write nothing more, until it is resumed.

    The scale stays as it is, decisions are made and shown as ever.
    """
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.pause(place, control.one_or_all(workload, every=every), reason, output)


def resume(
    workload: MaybeWorkload = None,
    every: Every = False,
    mode: Annotated[bool, typer.Option("--mode", help="Also follow the mode of the settings again.")] = False,
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Give it back: a pause, an override or a hold ends.

    Also the respect for what another writer changed. A mode set by `enable` or `observe` stays, unless --mode is given.
    """
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.resume(place, control.one_or_all(workload, every=every), output, mode=mode)


def override(
    workload: Workload,
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", min=0, help="Exactly so many.")],
    lasts: Annotated[str, typer.Option("--for", metavar="DURATION", help="For so long, such as 2h; 7d at most.")],
    reason: Why,
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Exactly N replicas for a while, whatever the load.

    Minimum, maximum and GPU budget hold; steps, the guard and blindness do not. It ends by itself.
    """
    from scaler.commands import control
    from scaler.commands.typed import duration

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.override(place, workload, replicas, duration(lasts, "--for"), reason, output)


def enable(
    workload: Workload,
    reason: Why = "",
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Let it scale, even if its settings say observe."""
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.switch(place, workload, "active", reason, output)


def observe(
    workload: Workload,
    reason: Why = "",
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Decide and write nothing, even if its settings say active."""
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.switch(place, workload, "observe", reason, output)
