"""The fast engine against a slow one that steps through every iteration of every sequence.

Properties, for any traffic, limits, image sizes, changes of slowdown, clients that leave and cuts of time:
- each request is scheduled and has its first and last token at the same time, to 1e-9 s, and was preempted as often;
- who leaves before the end finishes nowhere, and all that was held is free in the end;
- each replica counts the same tokens, and the same gaps between tokens by bucket.

Times are binary fractions in one of them, so that arrivals often fall exactly on an iteration's end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import Replica, Request, Status
from scaler.simulate.serving.gaps import bucket_edge_s


@dataclass(slots=True)
class Sequence:
    """One request in the slow engine."""

    arrived_s: float
    input_tokens: int
    output_tokens: int
    image_tokens: int
    leaves_s: float = math.inf
    cached: int = 0
    scheduled_s: float = math.nan
    token_s: list[float] = field(default_factory=list)
    preemptions: int = 0

    @property
    def to_compute(self) -> int:
        """Tokens that are known and not cached: 1 while decoding, more while its prompt is computed."""
        return self.input_tokens + len(self.token_s) - self.cached

    @property
    def finishes(self) -> bool:
        """Whether its last token came while its client was still there."""
        return len(self.token_s) == self.output_tokens and self.token_s[-1] <= self.leaves_s


class SteppingReplica:
    """vLLM's scheduler with a loop for everything and a clever idea for nothing."""

    def __init__(self, service: ServiceModel, slowdowns: list[tuple[float, float]]) -> None:
        self.service = service
        self.slowdowns = slowdowns  # (from when, factor), by time
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []  # in order of admission

    def run(self, sequences: list[Sequence]) -> None:
        """Serve them all, given in order of arrival."""
        to_come, now_s = list(sequences), 0.0
        while to_come or self.waiting or self.running:
            # what arrives as an iteration ends is not in time for the next, unless there is nothing else to do
            while to_come and to_come[0].arrived_s < now_s:
                self.waiting.append(to_come.pop(0))
            # as an arrival, who leaves when an iteration ends is not in time for the next
            self.waiting = [each for each in self.waiting if each.leaves_s >= now_s]
            self.running = [each for each in self.running if each.leaves_s >= now_s]
            if not self.waiting and not self.running:
                if not to_come:
                    return
                now_s = max(now_s, to_come[0].arrived_s)
                while to_come and to_come[0].arrived_s <= now_s:
                    self.waiting.append(to_come.pop(0))
            now_s = self.step(now_s)

    def step(self, now_s: float) -> float:
        """One iteration; when it ends."""
        computed, encoding_s = self.schedule()
        for sequence in self.running:
            if math.isnan(sequence.scheduled_s):
                sequence.scheduled_s = now_s
        cached = sum(each.cached for each in self.running)
        slowdown = [factor for since_s, factor in self.slowdowns if since_s < now_s or since_s == 0.0][-1]
        service = self.service
        tokens = sum(computed.values())
        duration_s = service.alpha_s + service.beta_s * tokens + service.gamma_s * cached + encoding_s
        duration_s += service.per_sequence_s * len(computed)
        now_s += slowdown * duration_s
        for sequence in list(self.running):
            if id(sequence) in computed and sequence.to_compute == 0:
                sequence.token_s.append(now_s)
                if len(sequence.token_s) == sequence.output_tokens:
                    self.running.remove(sequence)
        return now_s

    def schedule(self) -> tuple[dict[int, int], float]:
        """Tokens to compute by sequence, cached at once, and the encoder's time."""
        service, computed, encoding_s = self.service, {}, 0.0
        budget, preempted = service.max_num_batched_tokens, False
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            chunk = min(sequence.to_compute, budget)
            while chunk > self.free():
                victim = self.running.pop()
                victim.cached, preempted = 0, True
                victim.preemptions += 1
                self.waiting.insert(0, victim)
                if victim is sequence:
                    break
            else:
                if chunk:
                    computed[id(sequence)] = chunk
                sequence.cached += chunk
                budget -= chunk
                index += 1
        while not preempted and self.waiting and budget and len(self.running) < service.max_num_seqs:
            sequence = self.waiting[0]
            if sequence.to_compute > self.free():
                break
            self.running.append(self.waiting.pop(0))
            if sequence.image_tokens and not sequence.preemptions:
                encoding_s += service.encoder_s(sequence.image_tokens)
            chunk = min(sequence.to_compute, budget)
            computed[id(sequence)] = chunk
            sequence.cached += chunk
            budget -= chunk
        return computed, encoding_s

    def free(self) -> int:
        """Tokens that the KV cache still has room for."""
        return self.service.kv_tokens - sum(each.cached for each in self.running)


def gaps_of(sequences: list[Sequence]) -> list[float]:
    return [later - before for each in sequences for before, later in zip(each.token_s, each.token_s[1:], strict=False)]


@st.composite
def cases(draw: st.DrawFn, unit_s: float) -> tuple[ServiceModel, list[Sequence], list[tuple[float, float]]]:
    """A replica, its traffic and its slowdowns; all times are multiples of `unit_s`.

    But for the slowdowns, which lie a quarter beside: iterations end on halves at most, and whether one that begins as
    the speed changes has the old speed or the new one is no matter of engines.
    """
    slots = draw(st.integers(1, 6))
    service = ServiceModel(
        alpha_s=unit_s * draw(st.integers(1, 64)),
        beta_s=unit_s * draw(st.integers(0, 4)),
        gamma_s=unit_s * draw(st.integers(0, 2)),
        max_num_seqs=slots,
        max_num_batched_tokens=slots + draw(st.integers(0, 40)),
        kv_tokens=draw(st.integers(50, 200)),
        encoder_base_s=unit_s * draw(st.integers(0, 20)),
        encoder_per_token_s=unit_s * draw(st.integers(0, 3)),
        per_sequence_s=unit_s * draw(st.integers(0, 3)),
    )
    sequences, now_s = [], 0.0
    for _ in range(draw(st.integers(1, 25))):
        now_s += unit_s * draw(st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 4000)))
        prompt = draw(st.integers(1, 30))
        image = draw(st.one_of(st.just(0), st.integers(1, prompt)))
        stays_s = unit_s * draw(st.integers(1, 4000)) if draw(st.booleans()) else math.inf
        sequences.append(Sequence(now_s, prompt, draw(st.integers(1, 20)), image, now_s + stays_s))
    changes = draw(st.lists(st.tuples(st.integers(1, 5000), st.sampled_from([0.5, 2.0, 4.0])), max_size=3))
    slowdowns = [(0.0, 1.0), *sorted({unit_s * (since + 0.25): factor for since, factor in changes}.items())]
    return service, sequences, slowdowns


def serve(
    service: ServiceModel, sequences: list[Sequence], slowdowns: list[tuple[float, float]]
) -> tuple[Replica, list[Request]]:
    """The fast engine, told of each moment in order: finish what is due, change the speed, cancel, submit."""
    replica, finished = Replica(service, slowdown=slowdowns[0][1]), []
    requests = [
        Request(
            request_class="any",
            arrived_s=each.arrived_s,
            input_tokens=each.input_tokens,
            output_tokens=each.output_tokens,
            image_tokens=each.image_tokens,
        )
        for each in sequences
    ]
    arrivals, leavings = ({each.arrived_s for each in sequences}, {each.leaves_s for each in sequences} - {math.inf})
    for now_s in sorted(arrivals | leavings | {since_s for since_s, _ in slowdowns[1:]}):
        finished += replica.advance(now_s)
        for since_s, factor in slowdowns[1:]:
            if since_s == now_s:
                replica.set_slowdown(factor, now_s)
        for request, sequence in zip(requests, sequences, strict=True):
            if sequence.leaves_s == now_s and request.status is not Status.FINISHED:
                replica.cancel(request, now_s)
        for request in requests:
            if request.arrived_s == now_s:
                replica.submit(request, now_s)
    finished += replica.advance(math.inf)
    stayed = [request for request in requests if request.status is not Status.ABORTED]
    assert sorted(map(id, finished)) == sorted(map(id, stayed)), "who stays comes back exactly once"
    return replica, requests


def check_alike(service: ServiceModel, sequences: list[Sequence], slowdowns: list[tuple[float, float]]) -> None:
    SteppingReplica(service, slowdowns).run(sequences)
    replica, requests = serve(service, sequences, slowdowns)
    for request, sequence in zip(requests, sequences, strict=True):
        first_s, last_s = (sequence.token_s[0], sequence.token_s[-1]) if sequence.token_s else (math.nan, math.nan)
        assert request.status is (Status.FINISHED if sequence.finishes else Status.ABORTED)
        assert request.scheduled_s == pytest.approx(sequence.scheduled_s, abs=1e-9, nan_ok=True)
        assert request.first_token_s == pytest.approx(first_s, abs=1e-9, nan_ok=True)
        assert request.finished_s == pytest.approx(last_s if sequence.finishes else math.nan, abs=1e-9, nan_ok=True)
        assert request.preemptions == sequence.preemptions
    assert replica.generated_tokens == sum(len(each.token_s) for each in sequences)
    assert replica.prompt_tokens == sum(each.input_tokens for each in sequences if each.token_s)
    assert replica.preemptions == sum(each.preemptions for each in sequences)
    assert (replica.in_flight, replica.running, replica.waiting, replica.kv_used_tokens) == (0, 0, 0, 0)
    check_gaps(replica.token_gaps, gaps_of(sequences))


def check_gaps(counts: list[int], gaps_s: list[float]) -> None:
    """As many gaps as there are up to each edge, give or take those that lie on it."""
    assert sum(counts) == len(gaps_s)
    total = 0
    for bucket, count in enumerate(counts[:-1]):
        total += count
        edge_s = bucket_edge_s(bucket)
        low, high = (sum(gap_s <= edge_s * (1 + off) for gap_s in gaps_s) for off in (-1e-9, 1e-9))
        assert low <= total <= high


UNIT_S = 0.000987654321
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@settings(max_examples=300, deadline=None)
@given(cases(unit_s=2.0**-10))
def test_it_is_stepping_on_binary_fractions(
    case: tuple[ServiceModel, list[Sequence], list[tuple[float, float]]],
) -> None:
    check_alike(*case)


@settings(max_examples=150, deadline=None)
@given(cases(unit_s=UNIT_S))
def test_it_is_stepping_on_any_times(
    case: tuple[ServiceModel, list[Sequence], list[tuple[float, float]]],
) -> None:
    """Moments that lie between the ends of iterations: which side of a rounded end one falls is no matter of engines.

    Iterations end whole or half units after the arrival that began them, so each moment is moved by a share of a unit
    of its own: the golden ratio's multiples, of which no two differ by a half.
    """
    service, sequences, slowdowns = case
    moments = sorted(
        {each.arrived_s for each in sequences}
        | {each.leaves_s for each in sequences} - {math.inf}
        | {since_s for since_s, _ in slowdowns[1:]}
    )
    moved = {at_s: at_s + UNIT_S * (index * GOLDEN % 1.0) for index, at_s in enumerate(moments)}
    for sequence in sequences:
        sequence.arrived_s, sequence.leaves_s = moved[sequence.arrived_s], moved.get(sequence.leaves_s, math.inf)
    check_alike(service, sequences, [slowdowns[0], *((moved[since_s], factor) for since_s, factor in slowdowns[1:])])
