"""What a simulated request costs, as ratios within one run.

Measured on one of two shared, busy cores: 10 requests/s of some 320 input and 150 output tokens cost 7 µs each on one,
two, four or eight replicas, so a day of them (864,000) 6 s; near saturation, where iterations are shared by more, 3 µs.
Encoding such a record as JSON costs 2 µs. Passing stretches in one go, instead of stepping through the 130 million
tokens of the day, makes the difference: the cost must follow neither the length of the outputs nor the replicas.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import NEVER, Replica, Request

SERVICE = ServiceModel(alpha_s=0.01, beta_s=2e-5, gamma_s=4e-8, max_num_seqs=256, kv_tokens=400_000)
REQUESTS = 10_000


def fastest_s(run: Callable[[], object], *, runs: int = 3) -> float:
    """The fastest of some runs: the one that was disturbed least."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def traffic(*, rate_rps: float, mean_output: float) -> list[Request]:
    """Poisson arrivals, long-tailed prompts, exponential outputs."""
    rng, now_s, requests = random.Random(1), 0.0, []
    for _ in range(REQUESTS):
        now_s += rng.expovariate(rate_rps)
        requests.append(
            Request(
                request_class="chat",
                arrived_s=now_s,
                input_tokens=1 + int(min(8000.0, rng.lognormvariate(5.3, 0.9))),
                output_tokens=1 + int(min(4000.0, rng.expovariate(1.0 / mean_output))),
            )
        )
    return requests


def serve(replicas: int, *, rate_rps: float = 10.0, mean_output: float = 150.0) -> float:
    """Seconds for all requests, dealt out in turn."""
    requests = traffic(rate_rps=rate_rps, mean_output=mean_output)

    def run() -> None:
        pool = [Replica(SERVICE) for _ in range(replicas)]
        finished = 0
        for index, request in enumerate(requests):
            replica, now_s = pool[index % replicas], request.arrived_s
            if replica.next_event_s <= now_s:
                finished += len(replica.advance(now_s))
            replica.submit(request, now_s)
        assert finished + sum(len(replica.advance(NEVER)) for replica in pool) == REQUESTS

    return fastest_s(run)


def test_a_request_costs_a_few_encodings_of_itself() -> None:
    record = {"request_class": "chat", "arrived_s": 12345.678, "input_tokens": 320, "output_tokens": 150}
    encode_s = fastest_s(lambda: [json.dumps(record) for _ in range(REQUESTS)])
    serve_s = serve(4)
    assert serve_s < 12 * encode_s, f"{serve_s / REQUESTS * 1e6:.1f} µs a request, JSON {encode_s / REQUESTS * 1e6:.1f}"


def test_ten_times_the_output_costs_about_the_same() -> None:
    short_s, long_s = serve(4, mean_output=60.0), serve(4, mean_output=600.0)
    assert long_s < 2.5 * short_s, f"60 tokens {short_s * 1000:.0f} ms, 600 tokens {long_s * 1000:.0f} ms"


def test_more_replicas_for_the_same_traffic_cost_about_the_same() -> None:
    one_s, eight_s = serve(1), serve(8)
    assert eight_s < 2.5 * one_s, f"one {one_s * 1000:.0f} ms, eight {eight_s * 1000:.0f} ms"
