"""One replica of a continuous-batching server, iteration by iteration: when each request gets its tokens.

The scheduler is vLLM's (v1): each iteration first gives every decoding sequence its next token, then goes on with a
prompt that is computed in chunks, then admits waiting requests in order of arrival, while there are sequence slots, a
token budget and KV cache for the whole prompt. When the cache is full the youngest sequence loses its place, returns to
the head of the queue and later computes prompt and tokens again. An iteration takes

    α + β · tokens computed + γ · tokens in the KV cache + δ · sequences + Σ encoder time of the images that begin

seconds, times `slowdown`. What arrives in mid-iteration joins at the iteration's end. A request's first token comes
out of the iteration that ends its prefill, so O tokens need O iterations. Who is cancelled while it runs keeps its
place until the iteration's end, as an abort in vLLM takes effect between two steps.

Nothing changes in an iteration that only decodes, except that each sequence holds one token more. So the replica lives
in *stretches*: the m such iterations until the next completion, full cache or arrival take

    m · (α + (β+δ)·n + γ·C) + γ · n · m(m+1)/2,    n sequences that hold C tokens before,

and are passed in one go. The results are those of stepping (test_engine_reference). One replica never routes, rejects,
starts or bills anything, and knows no clock but the times it is told.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from scaler.service.model import ServiceModel
from scaler.simulate.serving.gaps import GAP_BUCKETS, note_gap, note_stretch
from scaler.simulate.serving.request import Request, Status

__all__ = ["NEVER", "Replica", "Request", "Status"]

NEVER = math.inf
"""The time of the next event where there is none."""

_WAITING, _RUNNING, _FINISHED, _ABORTED = Status.WAITING, Status.RUNNING, Status.FINISHED, Status.ABORTED
_IN_FLIGHT = (_WAITING, _RUNNING)

_Decoding: TypeAlias = tuple[int, int, Request]
"""Number of the iteration that brings its last token, number of its admission, the request."""


def _admission(decoding: _Decoding) -> int:
    return decoding[1]


class Replica:
    """One replica. Drive it by `submit`, and by `advance` at the latest at each `next_event_s`.

    At one and the same moment: advance first, then cancel and submit. All that arrive then join one iteration together
    if the replica is idle, else at the end of the iteration that runs.

    Attributes, to be read only:
        in_flight: requests waiting or running, those included that are cancelled and run to the iteration's end.
        next_event_s: when something changes next if nothing more is submitted; infinite when idle.
        idle_since_s: when it last became idle; NaN if it never did.
        prompt_tokens: prompt tokens of the requests whose first token came; as the counters below, since the start.
        generated_tokens: tokens generated.
        preemptions: times that a request lost its place.
        token_gaps: how often two tokens of a sequence were so far apart, by bucket (`gaps`).
    """

    __slots__ = (
        "_admitted",
        "_alpha_s",
        "_beta_s",
        "_budget",
        "_clock_s",
        "_decoding",
        "_encoding_s",
        "_finished",
        "_gamma_s",
        "_iteration",
        "_kv",
        "_kv_limit",
        "_leaving",
        "_partial",
        "_partial_left",
        "_prefilled",
        "_queue",
        "_sequence_s",
        "_slots",
        "_slowdown",
        "_stretch_began_s",
        "_stretch_each_s",
        "_stretch_growth_s",
        "_stretch_iterations",
        "first_tokens",
        "generated_tokens",
        "idle_since_s",
        "in_flight",
        "next_event_s",
        "preemptions",
        "prompt_tokens",
        "service",
        "token_gaps",
    )

    def __init__(
        self, service: ServiceModel, *, slowdown: float = 1.0, first_tokens: list[Request] | None = None
    ) -> None:
        """An idle replica.

        Args:
            service: how fast it iterates and what it holds.
            slowdown: factor on every time; 1.5 is a GPU half again as slow.
            first_tokens: where to note each request whose first token came; its owner empties it.
        """
        self.service = service
        self.first_tokens = first_tokens
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.preemptions = 0
        self.idle_since_s = math.nan
        self.token_gaps = [0] * GAP_BUCKETS
        self._slots = service.max_num_seqs
        self._budget = service.max_num_batched_tokens
        self._kv_limit = service.kv_tokens
        self._finished: list[Request] = []
        self._clock_s = -NEVER
        self._iteration = 0  # completed so far
        self._admitted = 0
        self._set_slowdown(slowdown)
        self._clear()

    def _clear(self) -> None:
        """Nothing in flight."""
        self.in_flight = 0
        self.next_event_s = NEVER
        self._queue: deque[Request] = deque()
        self._decoding: list[_Decoding] = []  # a heap
        self._prefilled: list[Request] = []  # whose prompts end with the iteration that runs
        self._leaving: list[Request] = []  # cancelled while they run
        self._partial: Request | None = None  # whose prompt goes on in the next; always the youngest
        self._partial_left = 0
        self._kv = 0  # tokens cached when the stretch begins, its prefill chunks included
        self._stretch_iterations = 0  # 0: idle, or woken at `next_event_s`
        self._stretch_began_s = self._stretch_each_s = self._stretch_growth_s = 0.0

    @property
    def slowdown(self) -> float:
        """Factor on every time; changed by `set_slowdown`."""
        return self._slowdown

    def set_slowdown(self, slowdown: float, now_s: float) -> None:
        """Be slower or faster from the next iteration on; the one that runs keeps its time.

        Raises:
            ValueError: not a finite number above 0.
        """
        self._live_until(now_s)
        self._set_slowdown(slowdown)
        self._cut(now_s)

    def _set_slowdown(self, slowdown: float) -> None:
        if not (math.isfinite(slowdown) and slowdown > 0.0):
            raise ValueError(f"slowdown must be a finite number above 0, got {slowdown}")
        self._slowdown = slowdown
        self._alpha_s = self.service.alpha_s * slowdown
        self._beta_s = self.service.beta_s * slowdown
        self._gamma_s = self.service.gamma_s * slowdown
        self._sequence_s = self.service.per_sequence_s * slowdown

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that have a sequence slot."""
        return len(self._decoding) + len(self._prefilled) + (self._partial is not None)

    @property
    def kv_used_tokens(self) -> int:
        """Tokens in the KV cache at the last moment it was told of, those of the iteration that runs included."""
        if self.next_event_s == NEVER or not self._stretch_iterations:
            return self._kv
        begun = min(self._stretch_iterations, self._iterations_past(self._clock_s))
        return self._kv + len(self._decoding) * begun

    def submit(self, request: Request, now_s: float) -> None:
        """Put a request at the end of the queue. One that was aborted elsewhere starts over, with nothing of it kept.

        Raises:
            ValueError: it would never fit in the KV cache, has no tokens, or `now_s` is before a time already told.
        """
        self._live_until(now_s)
        self._check_fits(request)
        request.routed_s = now_s
        request.scheduled_s = math.nan
        request.status = _WAITING
        request.emitted_tokens = request.preemptions = 0
        self.in_flight += 1
        queue = self._queue
        queue.append(request)
        if self.next_event_s == NEVER:
            self._stretch_iterations = 0  # an iteration of no length: what else arrives now joins the first real one
            self.next_event_s = now_s
        elif len(queue) == 1 and self._stretch_iterations > 1 and len(self._decoding) < self._slots:
            self._cut(now_s)  # behind others it would wait for what they wait for: a completion, where the stretch ends

    def _check_fits(self, request: Request) -> None:
        if request.input_tokens < 1 or request.output_tokens < 1:
            raise ValueError(
                f"a request needs at least 1 input and 1 output token, got {request.input_tokens} and "
                f"{request.output_tokens}"
            )
        # the last token is returned and never cached
        if request.input_tokens + request.output_tokens - 1 > self._kv_limit:
            raise ValueError(
                f"a request of {request.input_tokens} input and {request.output_tokens} output tokens does not fit in "
                f"a KV cache of {self._kv_limit} tokens"
            )

    def advance(self, now_s: float) -> Sequence[Request]:
        """Live through all that happens until `now_s`, that moment included.

        Returns:
            Requests that finished since the last call, in order of time. First tokens are filled in as they come.

        Raises:
            ValueError: `now_s` is before a time already told.
        """
        self._live_until(now_s)
        while self.in_flight and self.next_event_s <= now_s:
            self._turn()
        if not self._finished:
            return ()
        finished, self._finished = self._finished, []
        return finished

    def cancel(self, request: Request, now_s: float) -> None:
        """Give up one request that is in flight here: its client has left. No `advance` or `abort` returns it then.

        One that waits leaves the queue at once. One that runs leaves when the iteration that runs ends, and the token
        that this brings is counted and goes to nobody. One that finished by `now_s` is finished, and stays so.

        Raises:
            ValueError: it is not in flight, or `now_s` is before a time already told.
        """
        if request.status not in _IN_FLIGHT:
            raise ValueError(f"only a request in flight can be cancelled, this one is {request.status}")
        self._live_until(now_s)
        if request.status is _WAITING:
            self._cancel_waiting(request, now_s)
        elif request.status is _RUNNING:
            request.status = _ABORTED
            self._leaving.append(request)
            self._cut(now_s)

    def _cancel_waiting(self, request: Request, now_s: float) -> None:
        was_head = self._queue[0] is request
        self._queue.remove(request)
        request.status = _ABORTED
        self.in_flight -= 1
        if not self.in_flight:
            self.next_event_s, self.idle_since_s = NEVER, now_s  # woken for nobody
        elif was_head:
            self._cut(now_s)  # who was behind it may need less room

    def abort(self, now_s: float) -> Sequence[Request]:
        """Kill everything in flight and return it unfinished, the longest running first. The replica is idle then.

        What finished until now is still returned by the next `advance`.
        """
        self._live_until(now_s)
        while self.in_flight and self.next_event_s <= now_s:
            self._turn()
        if self.next_event_s < NEVER and self._stretch_iterations > 0:
            self._close(self._iterations_past(now_s) - 1)
        aborted = [request for _, _, request in sorted(self._decoding, key=_admission)]
        for last, _, request in self._decoding:
            request.emitted_tokens = request.output_tokens - (last - self._iteration)
        aborted += self._prefilled
        if self._partial is not None:
            aborted.append(self._partial)
        aborted += self._queue
        aborted = [request for request in aborted if request.status is not _ABORTED]
        for request in aborted:
            request.status = _ABORTED
        self._clear()
        return aborted

    def _live_until(self, now_s: float) -> None:
        """Live through all that happens before `now_s`."""
        if now_s < self._clock_s:
            raise ValueError(f"time runs forward: told of {now_s} s after {self._clock_s} s")
        self._clock_s = now_s
        while self.next_event_s < now_s:
            self._turn()

    def _turn(self) -> None:
        """End the stretch that runs and begin the next."""
        now_s = self.next_event_s
        if self._stretch_iterations:
            self._close(self._stretch_iterations)
            self._complete(now_s)
        self._begin(now_s)

    def _close(self, iterations: int) -> None:
        """Count what the decoding sequences did in the first iterations of a stretch."""
        self._iteration += iterations
        count = len(self._decoding)
        if count and iterations:
            self._kv += count * iterations
            self.generated_tokens += count * iterations
            note_stretch(self.token_gaps, count, iterations, self._stretch_each_s, self._stretch_growth_s)

    def _complete(self, now_s: float) -> None:
        """Take out what finished with the iteration that ends now or was cancelled; let prefilled sequences decode."""
        decoding, iteration = self._decoding, self._iteration
        while decoding and decoding[0][0] == iteration:
            self._finish(heappop(decoding)[2], now_s)
        if self._prefilled:
            self._end_prefills(now_s)
        if self._leaving:
            self._let_go()

    def _end_prefills(self, now_s: float) -> None:
        decoding, iteration = self._decoding, self._iteration
        for request in self._prefilled:
            emitted = request.emitted_tokens + 1
            if emitted == 1:
                request.first_token_s = now_s
                self.prompt_tokens += request.input_tokens
                if self.first_tokens is not None and request.status is not _ABORTED:
                    self.first_tokens.append(request)
            else:
                note_gap(self.token_gaps, now_s - request.last_token_s)
            left = request.output_tokens - emitted
            if left:
                self._admitted += 1
                heappush(decoding, (iteration + left, self._admitted, request))
            else:
                self._finish(request, now_s)
        self.generated_tokens += len(self._prefilled)
        self._prefilled = []

    def _finish(self, request: Request, now_s: float) -> None:
        """Its last token came, to nobody if its client left during the iteration."""
        request.emitted_tokens = request.output_tokens
        self._kv -= request.input_tokens + request.output_tokens - 1
        self.in_flight -= 1
        if request.status is _ABORTED:
            self._leaving.remove(request)
            return
        request.finished_s = now_s
        request.status = _FINISHED
        self._finished.append(request)

    def _let_go(self) -> None:
        """Free the places of those who were cancelled and did not finish with the iteration."""
        leaving, partial = {*self._leaving}, self._partial
        if partial is not None and partial in leaving:
            self._kv -= partial.input_tokens + partial.emitted_tokens - self._partial_left
            self._partial = None
        stay = []
        for entry in self._decoding:
            last, _, request = entry
            if request in leaving:
                request.emitted_tokens = request.output_tokens - (last - self._iteration)
                self._kv -= request.input_tokens + request.emitted_tokens - 1
            else:
                stay.append(entry)
        heapify(stay)
        self._decoding = stay
        self.in_flight -= len(leaving)
        self._leaving = []

    def _begin(self, now_s: float) -> None:
        """Schedule the next iteration, and with it those that will be like it."""
        if len(self._decoding) > self._kv_limit - self._kv:
            self._make_room()
        count = computed = len(self._decoding)
        self._encoding_s = 0.0
        if self._partial is not None:
            computed += self._compute_chunk(self._partial, self._budget - computed)
        if self._queue:  # who was preempted just now heads it, and needs more room than its going made
            computed += self._admit(self._budget - computed, now_s)
        if not computed:
            self.next_event_s, self.idle_since_s, self._stretch_iterations = NEVER, now_s, 0
            return
        if computed > count:
            iterations = 1
        else:
            iterations = min(self._decoding[0][0] - self._iteration, (self._kv_limit - self._kv) // count)
        each_s = self._alpha_s + self._beta_s * computed + self._gamma_s * self._kv + self._encoding_s
        if self._sequence_s:
            each_s += self._sequence_s * self.running
        growth_s = self._gamma_s * count
        self._stretch_began_s, self._stretch_iterations = now_s, iterations
        self._stretch_each_s, self._stretch_growth_s = each_s, growth_s
        self.next_event_s = now_s + (iterations * each_s + growth_s * (iterations * (iterations + 1) / 2))

    def _make_room(self) -> None:
        """Preempt the youngest until each decoding sequence can cache one token more."""
        decoding = self._decoding
        while len(decoding) > self._kv_limit - self._kv:
            if self._partial is not None:
                self._preempt_partial(self._partial)
                continue
            youngest = max(decoding, key=_admission)
            decoding.remove(youngest)
            last, _, request = youngest
            request.emitted_tokens = request.output_tokens - (last - self._iteration)
            request.last_token_s = self.next_event_s
            self._preempt(request, request.input_tokens + request.emitted_tokens - 1)
        heapify(decoding)

    def _preempt_partial(self, request: Request) -> None:
        self._preempt(request, request.input_tokens + request.emitted_tokens - self._partial_left)
        self._partial = None

    def _preempt(self, request: Request, cached_tokens: int) -> None:
        """Back to the head of the queue, to compute all its tokens again."""
        self._kv -= cached_tokens
        self._queue.appendleft(request)
        request.status = _WAITING
        request.preemptions += 1
        self.preemptions += 1

    def _compute_chunk(self, request: Request, budget: int) -> int:
        """Tokens of the unfinished prompt to compute in this iteration; without room for them it is preempted."""
        chunk = min(self._partial_left, budget)
        if chunk > self._kv_limit - self._kv - len(self._decoding):
            self._preempt_partial(request)
            return 0
        self._kv += chunk
        self._partial_left -= chunk
        if not self._partial_left:
            self._partial = None
            self._prefilled.append(request)
        return chunk

    def _admit(self, budget: int, now_s: float) -> int:
        """Admit from the head of the queue what there are slots, budget and cache for; tokens of it to compute now."""
        queue, free = self._queue, self._kv_limit - self._kv - len(self._decoding)
        places = self._slots - self.running
        computed = 0
        while queue and places > 0 and computed < budget:
            request = queue[0]
            # a preempted sequence has its own tokens to compute again
            prompt = request.input_tokens + request.emitted_tokens
            if prompt > free:
                break
            queue.popleft()
            request.status = _RUNNING
            if not request.preemptions:
                request.scheduled_s = now_s
                if request.image_tokens:  # the encoder's output outlives a preemption
                    self._encoding_s += self._slowdown * self.service.encoder_s(request.image_tokens)
            chunk = min(prompt, budget - computed)
            if chunk == prompt:
                self._prefilled.append(request)
            else:
                self._partial, self._partial_left = request, prompt - chunk
            computed += chunk
            free -= chunk
            places -= 1
            self._kv += chunk
        return computed

    def _cut(self, now_s: float) -> None:
        """End the stretch with the iteration that runs at `now_s`."""
        if self._stretch_iterations > 1:
            begun = self._iterations_past(now_s)
            if begun < self._stretch_iterations:
                self._stretch_iterations = begun
                self.next_event_s = self._stretch_end_s(begun)

    def _stretch_end_s(self, iterations: int) -> float:
        """When that many iterations of the stretch are over."""
        growth_s = self._stretch_growth_s * (iterations * (iterations + 1) / 2)
        return self._stretch_began_s + (iterations * self._stretch_each_s + growth_s)

    def _iterations_past(self, now_s: float) -> int:
        """The fewest iterations of the stretch that end after `now_s`: those that have begun by then."""
        # the root of e·m + g·m(m+1)/2 = elapsed, in the form that also holds for g = 0
        elapsed_s, growth_s = now_s - self._stretch_began_s, self._stretch_growth_s
        half_s = self._stretch_each_s + growth_s / 2
        begun = 1 + int(2 * elapsed_s / (half_s + math.sqrt(half_s * half_s + 2 * growth_s * elapsed_s)))
        while begun > 1 and self._stretch_end_s(begun - 1) > now_s:  # the root is rounded; the ends decide
            begun -= 1
        while self._stretch_end_s(begun) <= now_s:
            begun += 1
        return begun
