"""Clients in a closed loop: a real server's sweep predicted from a part of it, and a replica found again from its sweep.

The real one is a vLLM whose iterations are slowed down to 25 ms + 1 ms per sequence, with 8 sequence slots; its sweep
has levels of 1 to 64 clients. α + b·n and the front end's time are fitted on 1, 4 and 16 clients; 2, 8, 32 and 64 are
predicted. What decides how close they come:
- The front end takes requests one by one (it tokenises), so clients that start together join different iterations.
  Taken as parallel, two clients would decode in step and see their first token an iteration too early.
- A level is given by its number of requests, as they were sent: clients stop when all have been sent, and `seconds`
  includes the tail. Given by time instead (no new request after 5 s), the 64 clients would hang on some 20 ms: the
  eight requests of the fourth batch end between 4.93 and 5.01 s in the engine, and after 5 s in the real one; whether
  their clients send once more moves the median TTFT by a whole batch, 16 %.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path
from statistics import mean

import pytest

from scaler.service.fit import SweepLevel, fit
from scaler.service.model import ServiceModel, TokenShape
from scaler.simulate.serving.driven import Clients, closed_loop
from scaler.simulate.serving.engine import Request

SWEEP = Path(__file__).resolve().parents[5] / "shared" / "vllm" / "curve_slowstep.csv"
FITTED, PREDICTED = (1, 4, 16), (2, 8, 32, 64)
TINY = TokenShape(input_tokens=110, output_tokens=32)
SLOTS, KV_TOKENS = 8, 1024 * 128  # --max-num-seqs 8; 1024 blocks of 128 tokens
TOLERANCE = 0.15


def percentile(values: list[float], level: float) -> float:
    """As the sweep's own program takes it."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(level * len(ordered)))]


def seen(finished: list[Request]) -> dict[str, float]:
    """A row of the sweep."""
    ttft, e2e = [each.ttft_s for each in finished], [each.e2e_s for each in finished]
    return {
        "req_per_s": len(finished) / finished[-1].finished_s,
        "ttft_p50_ms": 1000 * percentile(ttft, 0.50),
        "e2e_p50_ms": 1000 * percentile(e2e, 0.50),
        "e2e_p95_ms": 1000 * percentile(e2e, 0.95),
        "itl_p50_ms": 1000 * percentile([each.itl_s for each in finished], 0.50),
    }


@pytest.fixture(scope="module")
def measured() -> dict[int, dict[str, float]]:
    """The real sweep by clients."""
    if not SWEEP.exists():
        pytest.skip("the measured sweep of a real vLLM is not here")
    with SWEEP.open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {int(row["concurrency"]): row for row in rows}


def predicted(measured: dict[int, dict[str, float]], clients: int) -> dict[str, float]:
    """A level from the fit of others."""
    levels = [
        SweepLevel(
            shape=TINY,
            concurrency=each,
            rate_rps=measured[each]["req_per_s"],
            itl_s=measured[each]["itl_p50_ms"] / 1000,
            ttft_s=measured[each]["ttft_p50_ms"] / 1000,
        )
        for each in FITTED
    ]
    found = fit(levels)
    assert found.identified == ("alpha_s", "per_sequence_s")
    assert found.overhead_s is not None
    service = found.service(max_num_seqs=SLOTS, kv_tokens=KV_TOKENS)
    load = Clients(clients=clients, requests=int(measured[clients]["requests_ok"]), front_end_s=found.overhead_s)
    return seen(closed_loop(service, load, lambda: (110, 32)))


@pytest.mark.parametrize("figure", ["req_per_s", "ttft_p50_ms", "e2e_p50_ms", "e2e_p95_ms", "itl_p50_ms"])
@pytest.mark.parametrize("clients", PREDICTED)
def test_a_real_server_is_predicted_where_it_was_not_fitted(
    measured: dict[int, dict[str, float]], clients: int, figure: str
) -> None:
    assert predicted(measured, clients)[figure] == pytest.approx(measured[clients][figure], rel=TOLERANCE)


def test_the_fit_finds_what_the_slow_server_sleeps(measured: dict[int, dict[str, float]]) -> None:
    levels = [
        SweepLevel(shape=TINY, concurrency=each, rate_rps=row["req_per_s"], itl_s=row["itl_p50_ms"] / 1000, ttft_s=None)
        for each, row in measured.items()
    ]
    found = fit(levels)
    assert found.per_sequence_s == pytest.approx(0.001, rel=0.15)  # SLOW_SEQ_MS=1
    assert 0.025 < found.alpha_s < 0.033  # SLOW_STEP_MS=25 and the real model's own time
    assert found.overhead_s is None


def test_a_replica_is_found_again_from_its_sweep() -> None:
    """Output lengths vary: with equal ones, clients lock into step and their prefills hide behind each other."""
    truth = ServiceModel(alpha_s=0.01, beta_s=2e-5, gamma_s=4e-8, max_num_seqs=256, kv_tokens=400_000)
    levels = []
    for prompt, output in ((300, 150), (2000, 50), (100, 400), (1000, 200)):
        for clients in (1, 4, 16, 64):
            rng = random.Random(f"{prompt} {clients}")
            load = Clients(clients=clients, requests=40 * clients + 40, front_end_s=0.004)
            varied = (prompt, output // 2, output * 3 // 2)
            finished = closed_loop(truth, load, lambda rng=rng, of=varied: (of[0], rng.randint(of[1], of[2])))  # type: ignore[misc]
            steady = finished[clients:-clients]
            gaps = sum(each.output_tokens - 1 for each in steady)
            levels.append(
                SweepLevel(
                    shape=TokenShape(input_tokens=prompt, output_tokens=output),
                    concurrency=clients,
                    rate_rps=(len(steady) - 1) / (steady[-1].finished_s - steady[0].finished_s),
                    itl_s=sum(each.finished_s - each.first_token_s for each in steady) / gaps,
                    ttft_s=mean(each.ttft_s for each in steady),
                )
            )
    found = fit(levels)
    assert found.identified == ("alpha_s", "beta_s", "gamma_s")
    assert found.alpha_s == pytest.approx(truth.alpha_s, rel=0.02)
    assert found.beta_s == pytest.approx(truth.beta_s, rel=0.05)
    assert found.gamma_s == pytest.approx(truth.gamma_s, rel=0.20)
    assert found.overhead_s == pytest.approx(0.004, rel=0.15)
