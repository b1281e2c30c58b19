"""`gateway`: the front door of the served side, in this process. What it does stands in `inference.gateway`."""

from __future__ import annotations

from pathlib import Path

from scaler.commands.printing import say


def run(config: Path) -> int:
    """Serve until told to stop; the exit code, 2 for settings that cannot work."""
    from inference.errors import DocumentError

    try:
        from inference.gateway import command
    except ModuleNotFoundError as error:
        say(f"error: the gateway needs {error.name}; pip install 'headstart[serve]'")
        return 1
    try:
        return command.run(config)
    except DocumentError as error:
        say(f"error: {error}; nothing was started")
        return 2
