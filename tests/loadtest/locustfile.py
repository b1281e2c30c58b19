"""Mixed text and pictures for a fleet of vLLM replicas, as people send them: streamed, over kept connections (S19).

    make locust-env
    PYTHONPATH=. .venv-locust/bin/locust -f tests/loadtest/locustfile.py --host http://gateway:8000 --model qwen3-vl-8b
    … --headless -u 24 -r 24 -t 2m --csv result

Each user sends one request after another without a pause, so `-u` is the number of requests in flight. `text` and
`picture` are the times of whole answers; the rows `… first token` are the times to the first one, and no requests of
their own. An answer counts as failed unless it ends as it should. Prompts are new each time: no cache helps.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any
from urllib.parse import urlsplit

from geventhttpclient import HTTPClient
from locust import User, events, run_single_user, task

from inference.profiling.plan import RequestClass
from inference.profiling.traffic import body

WAITS_S = 600.0


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    """What the traffic is like; Locust shows these beside its own."""
    parser.add_argument("--model", default="tiny", help="As the server calls it")
    parser.add_argument("--text-words", type=int, default=36, help="Words of a prompt")
    parser.add_argument("--text-tokens", type=int, default=32, help="Tokens of an answer to text")
    parser.add_argument("--picture-tokens", type=int, default=32, help="Tokens of an answer to a picture")
    parser.add_argument("--picture-size", default="224x224", help="Width and height of a picture, pixels")
    parser.add_argument("--picture-share", type=float, default=0.2, help="Share of the requests that have one")
    parser.add_argument("--traffic-seed", type=int, default=1, help="Of words and pictures")


class Person(User):
    """Asks, waits for the whole answer, and asks again."""

    _count = 0

    def on_start(self) -> None:
        """One connection a person, kept."""
        asked = self.environment.parsed_options
        Person._count += 1
        self._number, self._turn = Person._count, 0
        self._dice = random.Random(f"{asked.traffic_seed} {self._number}")
        parts = urlsplit(self.host)
        assert parts.hostname is not None
        self._client = HTTPClient(
            parts.hostname,
            parts.port or (443 if parts.scheme == "https" else 80),
            ssl=parts.scheme == "https",
            network_timeout=WAITS_S,
            connection_timeout=30.0,
        )

    def on_stop(self) -> None:
        """Hang up."""
        self._client.close()

    @task
    def ask(self) -> None:
        """One request, of text or with a picture."""
        asked = self.environment.parsed_options
        width, height = (int(each) for each in asked.picture_size.split("x"))
        with_picture = self._dice.random() < asked.picture_share
        name = "picture" if with_picture else "text"
        one = RequestClass(
            name=name,
            prompt_tokens=1,  # the words are given
            output_tokens=asked.picture_tokens if with_picture else asked.text_tokens,
            image_width=width if with_picture else 0,
            image_height=height if with_picture else 0,
        )
        self._turn += 1
        seed = f"{asked.traffic_seed} {self._number} {self._turn}"
        self._send(name, json.dumps(body(asked.model, one, word_count=asked.text_words, seed=seed)).encode())

    def _send(self, name: str, payload: bytes) -> None:
        sent_s = time.perf_counter()
        first_s: float | None = None
        size, error = 0, None
        try:
            headers = {"Content-Type": "application/json"}
            answer = self._client.request("POST", "/v1/chat/completions", body=payload, headers=headers)
            done = False
            if answer.status_code != 200:
                raise RuntimeError(f"status {answer.status_code}: {bytes(answer.read())[:120]!r}")
            while line := answer.readline(b"\n"):
                size += len(line)
                done = done or line.startswith(b"data: [DONE]")
                if first_s is None and b'"delta":{"content"' in line:
                    first_s = time.perf_counter()
            if not done:
                raise RuntimeError("the stream ended early")
        except Exception as problem:  # every kind of failure is a failed request, and Locust counts it
            error = problem
        finished_s = time.perf_counter()
        self._tell(name, finished_s - sent_s, size, error)
        if first_s is not None and error is None:
            self._tell(f"{name} first token", first_s - sent_s, 0, None)

    def _tell(self, name: str, took_s: float, size: int, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="POST",
            name=name,
            response_time=1000.0 * took_s,
            response_length=size,
            exception=error,
            context={},
        )


if __name__ == "__main__":
    run_single_user(Person)
