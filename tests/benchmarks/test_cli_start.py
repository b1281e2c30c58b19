"""How long `headstart --help` takes, against an interpreter that does nothing.

0.3 s is the promise, which is fifteen times a bare interpreter of 20 ms. Measured: 12 ms bare, 85 ms for the help.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MOST_TIMES_BARE = 15.0
RUNS = 7


def fastest_s(*arguments: str) -> float:
    """The fastest of some runs: the one that was disturbed least."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, cwd=REPO, check=True, timeout=60)
        times.append(time.perf_counter() - began)
    return min(times)


def test_help_is_a_small_multiple_of_a_bare_interpreter() -> None:
    bare_s = fastest_s("-c", "pass")
    help_s = fastest_s("-m", "scaler.cli", "--help")
    assert help_s < MOST_TIMES_BARE * bare_s, f"help {help_s * 1000:.0f} ms, bare {bare_s * 1000:.0f} ms"
