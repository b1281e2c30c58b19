"""A load that comes back: the rehearsal's rhythm as Locust's users, and a line for each request (S19).

    locust -f tests/loadtest/recurring.py --host http://gateway:8000 --headless --first-burst 2026-11-21T17:00:00+00:00 \\
      --shots shots.jsonl

Each user asks once in four seconds, whatever the answer before took, as long as that is less than four seconds. So the
number of users is the rate: two where it is quiet, twenty in a burst.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import locustfile
from locust import LoadTestShape, constant_throughput, events

from scaler.rehearsal.rhythm import Rhythm

RATE_EACH_RPS = 0.25


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    parser.add_argument("--first-burst", default="", help="When one burst begins, with its UTC offset")
    parser.add_argument("--shots", default="", help="File that gets a line for each request")


@events.test_start.add_listener
def _write_down(environment: Any, **_: Any) -> None:
    """A line for each request that is over."""
    told = environment.parsed_options.shots
    if not told:
        return
    path = Path(told)

    def over(name: str, response_time: float, exception: Exception | None, **_: Any) -> None:
        if name.endswith("first token"):
            return
        sent_at = datetime.now(UTC) - timedelta(milliseconds=response_time)
        line = {
            "sent_at": sent_at.isoformat(),
            "image": name == "picture",
            "e2e_s": response_time / 1000.0,
            "problem": "" if exception is None else str(exception),
        }
        with path.open("a", encoding="utf-8") as shots:
            shots.write(json.dumps(line) + "\n")

    environment.events.request.add_listener(over)


class Returning(locustfile.Person):
    """Asks at a rate of its own."""

    wait_time = constant_throughput(RATE_EACH_RPS)


class Bursts(LoadTestShape):
    """As many users as the rhythm's rate asks for, now."""

    def tick(self) -> tuple[int, float]:
        """Users, and how many may come or go in a second."""
        assert self.runner is not None
        begin = datetime.fromisoformat(self.runner.environment.parsed_options.first_burst)
        rate_rps = Rhythm(first_burst_at=begin).rate_rps(datetime.now(UTC))
        return math.ceil(rate_rps / RATE_EACH_RPS), 1.0
