"""One replica driven by clients: requests sent at given moments, or each when its client's last has finished.

What a real server's sweep is compared with. The front end takes requests one by one (it tokenises, decodes pictures)
before the scheduler sees them: taken as parallel, two clients would decode in step and see their first token an
iteration too early. It routes nothing and judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import NEVER, Replica, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """A closed loop: so many clients, so many requests in all, each sent when the client's last has finished."""

    clients: int
    requests: int
    front_end_s: float
    """Time that the front end works on a request before the scheduler sees it, one after another, seconds."""


def closed_loop(service: ServiceModel, load: Clients, shape_of: Callable[[], tuple[int, int]]) -> list[Request]:
    """All requests, finished, in order of their ends; `arrived_s` is when the client sent.

    `shape_of` gives the prompt and output tokens of the next request that the scheduler sees.
    """
    replica, free_s, sent = Replica(service), 0.0, 0
    inside_front_end: list[tuple[float, int, float]] = []
    finished: list[Request] = []

    def send(now_s: float) -> None:
        nonlocal free_s, sent
        if sent < load.requests:
            sent, free_s = sent + 1, max(now_s, free_s) + load.front_end_s
            heappush(inside_front_end, (free_s, sent, now_s))

    for _ in range(load.clients):
        send(0.0)
    while inside_front_end or replica.in_flight:
        now_s = min(replica.next_event_s, *(ready_s for ready_s, _, _ in inside_front_end[:1]), NEVER)
        for request in replica.advance(now_s):
            finished.append(request)
            send(now_s)
        while inside_front_end and inside_front_end[0][0] <= now_s:
            _, _, sent_s = heappop(inside_front_end)
            prompt, output = shape_of()
            replica.submit(
                Request(request_class="one", arrived_s=sent_s, input_tokens=prompt, output_tokens=output), now_s
            )
    return finished


def open_loop(service: ServiceModel, sends: Sequence[tuple[Request, float]]) -> None:
    """Serve requests that do not wait for each other until all are finished; times are filled in.

    Args:
        service: the replica.
        sends: requests in order of `arrived_s`, each with the front end's time for it in seconds.

    Raises:
        ValueError: a request never fits in the KV cache, or they are out of order.
    """
    replica, free_s = Replica(service), 0.0
    for request, front_end_s in sends:
        free_s = max(request.arrived_s, free_s) + front_end_s
        replica.advance(free_s)
        replica.submit(request, free_s)
    while replica.in_flight:
        replica.advance(replica.next_event_s)
