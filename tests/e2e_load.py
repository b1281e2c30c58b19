"""Load from a thread of its own, for stories that do something else meanwhile. Holds no test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from scaler.rehearsal.load import Ask, Shooter, Shot, Target
from scaler.rehearsal.recipe import MODEL

ENDS_WITHIN_S = 300.0


class Load:
    """Sends at `rate_rps`, or as a function of time says."""

    def __init__(
        self, url: str, rate_rps: Callable[[datetime], float] | None = None, *, images_share: float = 0.1
    ) -> None:
        self.rate_rps = 0.0
        ask = Ask(model=MODEL, images_share=images_share)
        self._shooter = Shooter(url, ask, rate_rps or (lambda _: self.rate_rps))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._shooter.run()), daemon=True)

    @property
    def target(self) -> Target:
        """What was sent, as it is kept."""
        return self._shooter.target

    @property
    def shots(self) -> list[Shot]:
        """Everything that was sent."""
        return list(self._shooter.target.shots)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sending, and at the end waited for."""
        self._thread.start()
        try:
            yield
        finally:
            self._shooter.ask_to_stop()
            self._thread.join(timeout=ENDS_WITHIN_S)
