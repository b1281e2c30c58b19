"""Locust in an environment and a process of its own, for stories that watch something else meanwhile. Holds no test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from e2e_parts import ROOT
from scaler.rehearsal.load import Shot, Target

BUILT = ROOT / ".venv-locust"
ENDS_WITHIN_S = 120


def locust() -> Path:
    """The program; without one the test is skipped."""
    if not (BUILT / "headstart.stamp").is_file():
        pytest.skip("no Locust in .venv-locust: make locust-env builds it")
    return BUILT / "bin" / "locust"


class Recurring:
    """The rehearsal's rhythm, offered by Locust's users (tests/loadtest/recurring.py)."""

    def __init__(self, url: str, folder: Path, *, first_burst_at: datetime) -> None:
        self.target = Target()
        """What was sent, as far as `look` has read it."""
        self._shots, self._log, self._read = folder / "shots.jsonl", folder / "locust.log", 0
        self._command = [
            *(str(locust()), "-f", str(ROOT / "tests" / "loadtest" / "recurring.py"), "--headless", "--host", url),
            *("--first-burst", first_burst_at.isoformat(), "--shots", str(self._shots)),
            *("--picture-share", "0.1", "--picture-size", "64x64", "--stop-timeout", "60"),
        ]

    def look(self) -> Target:
        """Read the requests that have ended since the last look."""
        if self._shots.exists():
            with self._shots.open("rb") as lines:
                lines.seek(self._read)
                for line in lines:
                    if line.endswith(b"\n"):
                        self._read += len(line)
                        self.target.shots.append(_shot(line))
        return self.target

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Offered; what is under way at the end is given up, and no shot."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                self._command,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
            assert process.poll() is None, self._log.read_text()[-2_000:]
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=ENDS_WITHIN_S)
            self.look()
        finally:
            process.kill()
            process.wait(timeout=30)


def _shot(line: bytes) -> Shot:
    facts = json.loads(line)
    return Shot(
        sent_at=datetime.fromisoformat(facts["sent_at"]),
        image=facts["image"],
        e2e_s=facts["e2e_s"],
        problem=facts["problem"],
    )
