"""The gateway's rules as tables, on a clock that is a number.

Properties, for any input:
  - a token bucket never lets through more than its burst and its rate,
  - what rendezvous hashing chooses holds no more than the bound allows, and only where a slot is free,
  - a replica that leaves moves only the keys that it had,
  - the level of degradation moves by one, and never without its dwell,
  - a stream goes through unchanged, however it is cut into pieces.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_vllm import event, usage
from inference.errors import DocumentError
from inference.gateway.admission import (
    PUBLIC,
    Admission,
    Bucket,
    Priority,
    Tenant,
    parse_tenants,
    take,
)
from inference.gateway.answers import ALLOW, NEVER, CacheRule, answer_key, may_keep
from inference.gateway.backends import parse_backends
from inference.gateway.body import CHAT, COMPLETIONS, EMBEDDINGS, Body, changed, parse_body
from inference.gateway.classify import DEFAULT, ClassRule, Complexity, ComplexityRule, classify, complexity
from inference.gateway.degradation import (
    Degradation,
    DegradationRule,
    Level,
    Pressure,
    asked_for,
    changes,
    step,
)
from inference.gateway.health import (
    NEW,
    Health,
    HealthRule,
    Standing,
    after_failure,
    after_probe,
    after_success,
    may_get,
)
from inference.gateway.images import check_image
from inference.gateway.lateness import Lateness
from inference.gateway.metrics import edges
from inference.gateway.queueing import Line, QueueRule, Ticket, retry_after_s
from inference.gateway.refusals import Reason, Refusal
from inference.gateway.routing import RoutingRule, affinity_key, choose, key_of
from inference.gateway.streaming import EventStream, WholeAnswer

PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
OTHERS_PICTURE = "https://pictures.example/1.png"


def a_body(text: str = "hello", *, images: tuple[str, ...] = (), path: str = CHAT, **more: Any) -> Body:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    content = [*parts, {"type": "text", "text": text}] if images else text
    named = {"messages": [{"role": "user", "content": content}]} if path == CHAT else {"prompt": text, "input": text}
    return parse_body(path, json.dumps({"model": "m", **named, **more}).encode())


# ── What is asked ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given_fields", "change", "expected"),
    [
        pytest.param('{"model":"m","prompt":"a"}', {}, '{"model":"m","prompt":"a"}', id="nothing"),
        pytest.param('{"model":"m"}', {"n": 1}, '{"model":"m","n":1}', id="a new field is added at the end"),
        pytest.param('{"model":"m" }\n', {"n": 1}, '{"model":"m","n":1}', id="white space at the end"),
        pytest.param('{"model":"m","n":2}', {"n": 1}, '{"model":"m","n":1}', id="a field that is there"),
        pytest.param('{"model":"ü","n":2}', {"n": 1}, '{"model":"ü","n":1}', id="other letters"),
    ],
)
def test_changes_a_body(given_fields: str, change: dict[str, Any], expected: str) -> None:
    body = parse_body(COMPLETIONS, given_fields.encode())
    assert changed(body, change).decode() == expected


GUI = ClassRule(name="gui", tags=("screenshot",), min_images=1, max_prompt_characters=500, pools=("gui", "default"))
VIDEO = ClassRule(name="video", min_videos=1)
HTML = ClassRule(name="html_gen", keywords=("HTML", "web page"), min_output_tokens=500)
TAGGED = ClassRule(name="ocr")
CLASSES = (GUI, VIDEO, HTML, TAGGED)


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        pytest.param(a_body(), "gui", "gui", id="by header"),
        pytest.param(a_body(), "screenshot", "gui", id="by another word for it"),
        pytest.param(a_body(metadata={"request_class": "ocr"}), None, "ocr", id="by the body's tag"),
        pytest.param(a_body(metadata={"request_class": "ocr"}), "gui", "gui", id="the header before the body"),
        pytest.param(a_body(metadata={"request_class": "ocr"}), "odd", "ocr", id="a header nobody knows is ignored"),
        pytest.param(a_body(images=(PICTURE,)), None, "gui", id="by a picture"),
        pytest.param(a_body("x" * 501, images=(PICTURE,)), None, "default", id="every condition must hold"),
        pytest.param(a_body("Write a Web Page", max_tokens=900), None, "html_gen", id="by a word, in any case"),
        pytest.param(a_body("Write a web page"), None, "default", id="a word is not enough"),
        pytest.param(a_body("plain"), None, "default", id="a rule without conditions needs its tag"),
        pytest.param(a_body(metadata={"request_class": 3}), None, "default", id="a tag that is no text"),
    ],
)
def test_classifies(body: Body, header: str | None, expected: str) -> None:
    assert classify(body, CLASSES, header=header).name == expected


def test_without_rules_everything_is_default() -> None:
    assert classify(a_body(), ()) is DEFAULT


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(a_body(), Complexity.SIMPLE, id="a short question"),
        pytest.param(a_body("x" * 501), Complexity.MODERATE, id="a long one"),
        pytest.param(a_body(images=(PICTURE,)), Complexity.MODERATE, id="a picture"),
        pytest.param(a_body(max_tokens=300), Complexity.MODERATE, id="a long answer"),
        pytest.param(a_body("x" * 6001), Complexity.COMPLEX, id="a very long one"),
        pytest.param(a_body(images=(PICTURE,) * 3), Complexity.COMPLEX, id="pictures to compare"),
        pytest.param(a_body(tools=[{}]), Complexity.COMPLEX, id="tools"),
        pytest.param(a_body(max_completion_tokens=4000), Complexity.COMPLEX, id="a very long answer"),
    ],
)
def test_judges_complexity(body: Body, expected: Complexity) -> None:
    assert complexity(body, ComplexityRule()) is expected


def test_a_picture_that_says_it_is_huge_is_refused() -> None:
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x06\x00\x00\x00abcd"
    with pytest.raises(Refusal, match="60000×60000"):
        check_image("data:image/png;base64," + base64.b64encode(head + b"x" * 40).decode(), place="image 0")


# ── Who asks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    ("before", "now_s", "tokens", "wait_s"),
    [
        pytest.param(None, 5.0, 3.0, 0.0, id="the first of a burst"),
        pytest.param(Bucket(tokens=0.0, at_s=4.9), 5.0, 0.2, 0.4, id="a fifth of a token: 0.8 more at 2/s"),
        pytest.param(Bucket(tokens=0.0, at_s=0.0), 5.0, 3.0, 0.0, id="never more than the burst"),
        pytest.param(Bucket(tokens=1.0, at_s=9.0), 5.0, 0.0, 0.0, id="a clock that goes back"),
    ],
)
def test_takes_a_token(before: Bucket | None, now_s: float, tokens: float, wait_s: float) -> None:
    after, wait = take(before, rate_rps=2.0, burst=4.0, now_s=now_s)
    assert after.tokens == pytest.approx(tokens)
    assert wait == pytest.approx(wait_s)


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
    st.floats(0.1, 20),
    st.floats(1, 20),
)
def test_a_bucket_never_lets_more_through(gaps_s: list[float], rate_rps: float, burst: float) -> None:
    bucket, now_s, passed = None, 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        bucket, wait_s = take(bucket, rate_rps=rate_rps, burst=burst, now_s=now_s)
        passed += wait_s == 0.0
        assert passed <= burst + rate_rps * (now_s - gaps_s[0]) + 1e-6


def test_two_copies_share_a_limit_evenly() -> None:
    tenant = Tenant(name="a", max_at_once=4, keys_sha256=(sha("k"),))
    admission = Admission(copies=2)
    admission.admit(tenant, now_s=0)
    admission.admit(tenant, now_s=0)
    with pytest.raises(Refusal) as refused:
        admission.admit(tenant, now_s=0)
    assert refused.value.reason is Reason.TOO_MANY_AT_ONCE
    admission.leave(tenant)
    admission.admit(tenant, now_s=0)


def test_until_its_tenants_are_read_a_gateway_with_tenants_lets_nobody_in() -> None:
    admission = Admission(everybody=False)
    with pytest.raises(Refusal, match="no valid API key"):
        admission.tenant_of("Bearer anything")
    assert Admission().tenant_of(None) is PUBLIC


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer  ", "Basic k", "k", "Bearer K"])
def test_a_key_that_is_not_exactly_right_is_refused(header: str | None) -> None:
    admission = Admission()
    admission.replace([Tenant(name="a", keys_sha256=(sha("k"),))])
    assert admission.tenant_of("Bearer k").name == admission.tenant_of("bearer k").name == "a"
    with pytest.raises(Refusal):
        admission.tenant_of(header)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("kind: Tenant", "start it with kind: Tenants", id="another document"),
        pytest.param("kind: Tenants\ntenants: [{name: a, key: b}]", "tenants[0].key: unknown key", id="a key"),
        pytest.param("kind: Tenants\ntenants: [{name: a, keys_sha256: [b]}]", "no SHA-256 in hex", id="a key in clear"),
        pytest.param("kind: Tenants\ntenants: [{name: a, keys_sha256: hunter2}]", "valid tuple", id="a key for a list"),
        pytest.param("kind: Tenants\ntenants: [{name: a}]", "holds no key", id="no key at all"),
        pytest.param(
            f"kind: Tenants\ntenants: [{{name: a, keys_sha256: [{sha('k')}]}}, {{name: b, keys_sha256: [{sha('k')}]}}]",
            "belongs to two tenants",
            id="one key twice",
        ),
        pytest.param("kind: Tenants\ntenants: [{name: A B, keys_sha256: []}]", "no tenant's name", id="a name"),
    ],
)
def test_refuses_tenants(text: str, problem: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_tenants(text, source="tenants.yaml")
    assert problem in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("backends", "problem"),
    [
        pytest.param('[{"url": "http://a:1", "modle": "m"}]', "did you mean model?", id="a typo"),
        pytest.param('[{"url": "http://a:1"}]', "backends[0].model: is missing", id="no model"),
        pytest.param('[{"url": "a:1", "model": "m"}]', "no base address", id="no scheme"),
        pytest.param('[{"url": "http://u:p@a:1", "model": "m"}]', "user, query or fragment", id="a password"),
        pytest.param('[{"url": "http://a:1", "model": "m\\r\\nx: y"}]', "no model name", id="a header in the model"),
        pytest.param('[{"url": "http://a:1", "model": "m", "weight": -1}]', "weight = -1", id="a weight"),
        pytest.param('[{"url": "http://a:1", "model": "m", "state": "gone"}]', "'ready' or 'draining'", id="a state"),
        pytest.param('[{"url": "http://a:1", "model": "m"}, {"url": "http://a:1", "model": "n"}]', "twice", id="twice"),
    ],
)
def test_refuses_backends(backends: str, problem: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_backends(f'{{"kind": "Backends", "backends": {backends}}}', source="backends.json")
    assert problem in str(refused.value)


def test_reads_backends_in_either_notation() -> None:
    text = '{"apiVersion":"headstart/v1","kind":"Backends","backends":[{"url":"http://127.0.0.1:8101","model":"tiny",'
    text += '"pool":"default","weight":1.0,"capacity":1.0,"state":"draining"}]}'
    (as_json,) = parse_backends(text, source="b")
    (as_yaml,) = parse_backends(
        "kind: Backends\nbackends:\n- {url: 'http://127.0.0.1:8101', model: tiny, state: draining}", source="b"
    )
    assert as_json == as_yaml
    assert parse_backends("kind: Backends\nbackends: []", source="b") == ()


# ── Where it goes ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Stand:
    """A replica as routing sees it."""

    name: str
    in_flight: int = 0
    share: float = 1.0
    slots: int = 1000
    variant: str = "m"

    @property
    def seed(self) -> int:
        return key_of(self.name)


RULE = RoutingRule()


def test_the_same_prompt_meets_the_same_replica_and_others_spread() -> None:
    fleet = [Stand(name) for name in "abcd"]
    first = {key: choose(fleet, key=key_of(str(key)), spread=key, rule=RULE) for key in range(400)}
    again = {key: choose(fleet, key=key_of(str(key)), spread=key + 7, rule=RULE) for key in range(400)}

    assert first == again
    assert min(Counter(each.name for each in first.values() if each).values()) > 70


def test_a_replica_that_leaves_moves_only_its_own_keys() -> None:
    fleet = [Stand(name) for name in "abcd"]
    before = {key: choose(fleet, key=key_of(str(key)), spread=0, rule=RULE) for key in range(400)}
    after = {key: choose(fleet[:3], key=key_of(str(key)), spread=0, rule=RULE) for key in range(400)}

    assert all(after[key] == old for key, old in before.items() if old is not fleet[3])


def test_one_prompt_for_all_is_spread_by_the_bound() -> None:
    fleet = [Stand(name) for name in "abcd"]
    for number in range(400):
        chosen = choose(fleet, key=1, spread=number, rule=RULE)
        assert chosen is not None
        chosen.in_flight += 1

    assert max(each.in_flight for each in fleet) <= math.ceil(1.25 * 400 / 4)
    assert min(each.in_flight for each in fleet) > 20


def test_without_affinity_the_fewest_in_flight_for_its_capacity_gets_it() -> None:
    fleet = [Stand("a", in_flight=3), Stand("b", in_flight=5, share=2.0), Stand("c", in_flight=4)]
    chosen = choose(fleet, key=None, spread=0, rule=RULE)
    assert chosen is fleet[1]  # (5 + 1) / 2 = 3, (3 + 1) / 1 = 4


def test_a_switch_sends_its_share_to_the_new_variant_at_any_load() -> None:
    fleet = [Stand("a", share=9.0), Stand("b", share=1.0, variant="new")]
    for busy in (0, 50):
        fleet[0].in_flight = busy
        chosen = Counter(
            each.variant for n in range(2000) if (each := choose(fleet, key=5, spread=key_of(f"{n}"), rule=RULE))
        )
        assert 140 <= chosen["new"] <= 260


def test_a_variant_of_weight_0_gets_nothing_and_a_full_one_passes_on() -> None:
    assert choose([Stand("a", share=0.0)], key=1, spread=1, rule=RULE) is None
    full, free = Stand("a", share=9.0, in_flight=2, slots=2), Stand("b", variant="new")
    assert {choose([full, free], key=None, spread=n, rule=RULE) is free for n in range(50)} == {True}


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0.1, 5), st.integers(1, 30)), min_size=1, max_size=8),
    st.none() | st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
def test_whatever_is_chosen_has_a_slot(rows: list[tuple[int, float, int]], key: int | None, spread: int) -> None:
    fleet = [
        Stand(str(n), in_flight=busy, share=share, slots=slots, variant=str(n % 2))
        for n, (busy, share, slots) in enumerate(rows)
    ]
    chosen = choose(fleet, key=key, spread=spread, rule=RULE)
    if chosen is None:
        assert all(each.in_flight >= each.slots for each in fleet)
    else:
        assert chosen.in_flight < chosen.slots


def test_a_picture_decides_and_a_short_prompt_does_not() -> None:
    assert affinity_key(a_body("a" * 64), RULE) == affinity_key(a_body("a" * 64), RULE) is not None
    assert affinity_key(a_body("hi"), RULE) is None
    assert affinity_key(a_body("one", images=(PICTURE,)), RULE) == affinity_key(a_body("two", images=(PICTURE,)), RULE)


# ── How a replica stands ──────────────────────────────────────────────────────────────────────────────────────────

HEALTH = HealthRule()


def failing(times: int, *, every_s: float = 1.0, health: Health = NEW) -> Health:
    for number in range(times):
        health = after_failure(health, HEALTH, now_s=number * every_s)
    return health


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        pytest.param(failing(2), Standing.HEALTHY, id="two failures"),
        pytest.param(failing(3), Standing.EJECTED, id="three"),
        pytest.param(failing(5, every_s=16.0), Standing.HEALTHY, id="three need 32 s: none of them counts"),
        pytest.param(failing(2, health=after_success(failing(2))), Standing.HEALTHY, id="a success between"),
        pytest.param(after_probe(failing(3), now_s=10), Standing.EJECTED, id="a probe too early"),
        pytest.param(after_probe(failing(3), now_s=33), Standing.TRIAL, id="a probe in time"),
        pytest.param(after_probe(failing(30), now_s=33), Standing.TRIAL, id="probes that fail make it no longer"),
        pytest.param(after_success(failing(3)), Standing.EJECTED, id="an old stream's success says nothing"),
        pytest.param(after_success(after_probe(failing(3), now_s=33)), Standing.HEALTHY, id="a trial goes well"),
        pytest.param(
            after_failure(after_probe(failing(3), now_s=33), HEALTH, now_s=90),
            Standing.EJECTED,
            id="a trial goes badly",
        ),
        pytest.param(
            after_failure(failing(2), HEALTH, now_s=2, may_eject=False), Standing.HEALTHY, id="others are out"
        ),
    ],
)
def test_stands(health: Health, expected: Standing) -> None:
    assert health.standing is expected


def test_a_trial_is_one_request_at_a_time() -> None:
    trial = after_probe(failing(3), now_s=33)
    assert may_get(trial, in_flight=0)
    assert not may_get(trial, in_flight=1)
    assert not may_get(failing(3), in_flight=0)


# ── Who waits ─────────────────────────────────────────────────────────────────────────────────────────────────────


def a_ticket(priority: Priority, woken: list[Priority] | None = None) -> Ticket:
    return Ticket(
        priority=priority, since_s=0, until_s=1, wake=lambda: woken.append(priority) if woken is not None else None
    )


def test_vips_stand_before_all_others_and_each_in_the_order_they_came() -> None:
    line = Line(rule=QueueRule())
    tickets = [a_ticket(each) for each in (Priority.NORMAL, Priority.VIP, Priority.NORMAL, Priority.VIP)]
    assert all(line.join(each) for each in tickets)
    assert list(line) == [tickets[1], tickets[3], tickets[0], tickets[2]]


def test_a_full_line_takes_a_vip_for_the_last_normal_one() -> None:
    woken: list[Priority] = []
    line = Line(rule=QueueRule(max_waiting=2))
    first, last = a_ticket(Priority.NORMAL, woken), a_ticket(Priority.NORMAL, woken)
    assert line.join(first)
    assert line.join(last)
    assert not line.join(a_ticket(Priority.NORMAL))
    assert line.join(a_ticket(Priority.VIP))
    assert (last.evicted, first.evicted, len(woken)) == (True, False, 1)
    assert line.join(a_ticket(Priority.VIP))
    assert not line.join(a_ticket(Priority.VIP))
    line.leave(first)
    line.leave(first)


@pytest.mark.parametrize(
    ("waiting", "slots", "mean_s", "expected"),
    [
        pytest.param(40, 20, 2.0, 4.0, id="two rounds of two seconds"),
        pytest.param(0, 20, 2.0, 1.0, id="at least a second"),
        pytest.param(10_000, 1, 2.0, 60.0, id="at most a minute"),
        pytest.param(5, 0, 1.0, 5.0, id="no slot"),
    ],
)
def test_says_when_to_come_back(waiting: int, slots: int, mean_s: float, expected: float) -> None:
    assert retry_after_s(waiting=waiting, slots=slots, mean_service_s=mean_s) == expected


# ── What is taken back ────────────────────────────────────────────────────────────────────────────────────────────

DEGRADE = DegradationRule(max_image_pixels=524_288)


@pytest.mark.parametrize(
    ("pressure", "expected"),
    [
        pytest.param(Pressure(load_ratio=0.5, waiting_ratio=0.0), Level.FULL, id="calm"),
        pytest.param(Pressure(load_ratio=0.9, waiting_ratio=0.0), Level.SHORTER, id="nearly full"),
        pytest.param(Pressure(load_ratio=0.2, waiting_ratio=0.0, slow_ratio=0.06), Level.SHORTER, id="P95 is late"),
        pytest.param(
            Pressure(load_ratio=0.2, waiting_ratio=0.0, slow_ratio=0.25), Level.SMALLER, id="a quarter is late"
        ),
        pytest.param(Pressure(load_ratio=1.0, waiting_ratio=0.3), Level.SMALLER, id="a line"),
        pytest.param(Pressure(load_ratio=1.0, waiting_ratio=0.6), Level.SHED, id="a long line"),
        pytest.param(
            Pressure(load_ratio=0.0, waiting_ratio=0.0, slow_ratio=1.0), Level.SMALLER, id="late alone never sheds"
        ),
    ],
)
def test_asks_for_a_level(pressure: Pressure, expected: Level) -> None:
    assert asked_for(pressure, DEGRADE) is expected


def levels(course: list[tuple[float, Pressure]], state: Degradation | None = None) -> list[int]:
    now, told = state or Degradation(), []
    for at_s, pressure in course:
        now = step(now, pressure, DEGRADE, now_s=at_s)
        told.append(int(now.level))
    return told


def test_goes_up_step_by_step_and_down_slowly_and_only_when_it_is_really_calm() -> None:
    storm = Pressure(load_ratio=1.0, waiting_ratio=0.9)
    lull = Pressure(load_ratio=0.8, waiting_ratio=0.5)  # below every edge's begin of SHED, above 0.7 of it
    calm = Pressure(load_ratio=0.1, waiting_ratio=0.0)

    assert levels([(t, storm) for t in range(8)]) == [0, 0, 1, 1, 2, 2, 3, 3]
    shed = Degradation(level=Level.SHED)
    assert levels([(t, lull) for t in range(0, 100, 10)], shed) == [3] * 10
    assert levels([(t, calm) for t in range(0, 100, 10)], shed) == [3, 3, 3, 2, 2, 2, 1, 1, 1, 0]
    flicker = [(float(t), storm if t % 2 else calm) for t in range(60)]
    assert set(levels(flicker)) == {0}


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 2), st.floats(0, 1), st.none() | st.floats(0, 1))))
def test_a_level_moves_by_one_and_never_without_its_dwell(
    course: list[tuple[float, float, float, float | None]],
) -> None:
    state, now_s, changed_at_s = Degradation(), 0.0, 0.0
    for gap_s, load, waiting, slow in course:
        now_s += gap_s
        pressure = Pressure(load_ratio=load, waiting_ratio=waiting, slow_ratio=slow)
        after = step(state, pressure, DEGRADE, now_s=now_s)
        assert abs(after.level - state.level) <= 1
        if after.level > state.level:
            assert now_s - changed_at_s >= DEGRADE.rise_after_s
        if after.level < state.level:
            assert now_s - changed_at_s >= DEGRADE.fall_after_s
        changed_at_s = now_s if after.level != state.level else changed_at_s
        state = after


@pytest.mark.parametrize(
    ("body", "level", "expected"),
    [
        pytest.param(a_body(), Level.FULL, {}, id="full"),
        pytest.param(a_body(), Level.SHORTER, {"max_tokens": 512}, id="no limit of its own"),
        pytest.param(a_body(max_tokens=100), Level.SHORTER, {}, id="short anyway"),
        pytest.param(a_body(max_tokens=900), Level.SMALLER, {"max_tokens": 512}, id="too long"),
        pytest.param(
            a_body(max_completion_tokens=900), Level.SHORTER, {"max_completion_tokens": 512}, id="in the new words"
        ),
        pytest.param(
            a_body(max_tokens=9, images=(PICTURE,)),
            Level.SHORTER,
            {"mm_processor_kwargs": {"images_kwargs": {"size": {"longest_edge": 524_288}}}},
            id="smaller pictures",
        ),
        pytest.param(a_body(path=EMBEDDINGS), Level.SHED, {}, id="an embedding has no output"),
    ],
)
def test_changes_a_request(body: Body, level: Level, expected: dict[str, Any]) -> None:
    assert changes(body, level, DEGRADE) == expected


def test_pictures_stay_as_they_are_where_replicas_would_refuse_a_smaller_size() -> None:
    assert changes(a_body(max_tokens=9, images=(PICTURE,)), Level.SHED, DegradationRule()) == {}


def test_lateness_is_a_share_of_the_last_ten_seconds() -> None:
    lateness = Lateness()
    for second in range(10):
        lateness.add(late=second < 5, now_s=100.0 + second)
    assert lateness.share(now_s=109.5, at_least=5) == 0.5
    assert lateness.share(now_s=112.5, at_least=5) == pytest.approx(2 / 7)
    assert lateness.share(now_s=109.5, at_least=11) is None
    assert lateness.share(now_s=500.0, at_least=1) is None


# ── What is kept ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "word", "expected"),
    [
        pytest.param(a_body(temperature=0), None, True, id="temperature 0"),
        pytest.param(a_body(), None, False, id="no temperature is 1"),
        pytest.param(a_body(temperature=0.7), None, False, id="chance"),
        pytest.param(a_body(temperature=0.7), ALLOW, True, id="the client's word"),
        pytest.param(a_body(temperature=0), NEVER, False, id="the client's word against it"),
        pytest.param(a_body(temperature=0, images=(PICTURE,)), None, True, id="a picture in the request"),
        pytest.param(a_body(temperature=0, images=(OTHERS_PICTURE,)), None, False, id="a picture that may change"),
        pytest.param(a_body(temperature=0, images=(OTHERS_PICTURE,)), ALLOW, True, id="which the client vouches for"),
        pytest.param(a_body(path=EMBEDDINGS), None, True, id="an embedding"),
        pytest.param(a_body(temperature=False), None, True, id="false is 0 to vLLM too"),
    ],
)
def test_keeps_an_answer(body: Body, word: str | None, expected: bool) -> None:
    assert may_keep(body, word) is expected


def a_key(tenant: str = "a", model: str = "m", *, greedy: bool = False, **body: Any) -> str:
    return answer_key(a_body(**body), tenant=tenant, model=model, greedy=greedy)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(a_key(), a_key(), True, id="the same"),
        pytest.param(a_key(), a_key(user="u", metadata={"x": 1}), True, id="who asks does not matter"),
        pytest.param(a_key(temperature=0), a_key(temperature=0.0, top_p=0.5, seed=3), True, id="chance without chance"),
        pytest.param(a_key(), a_key("b"), False, id="another tenant"),
        pytest.param(a_key("a", "b"), a_key("ab", ""), False, id="names do not run together"),
        pytest.param(a_key(), a_key(model="n"), False, id="another model"),
        pytest.param(a_key(), a_key(stream=True), False, id="another form"),
        pytest.param(a_key(), a_key(max_tokens=5), False, id="another length"),
        pytest.param(
            a_key(images=(PICTURE,)), a_key(images=(PICTURE.replace("png;", "jpeg;"),)), False, id="a picture"
        ),
        pytest.param(a_key(path=COMPLETIONS), a_key(path=EMBEDDINGS), False, id="another path"),
        pytest.param(a_key(temperature=0), a_key(temperature=0.9, greedy=True), True, id="asked for greedily"),
    ],
)
def test_one_key_for_one_question(one: str, other: str, same: bool) -> None:
    assert (one == other) is same


# ── What passes through ───────────────────────────────────────────────────────────────────────────────────────────

TOKENS = [event({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in ("a", '"choices":[]', "\n\n", "ü")]
USAGE = event({"choices": [], "usage": usage(4)})
END = b"data: [DONE]\n\n"


@given(st.lists(st.integers(0, 600), max_size=12), st.booleans())
def test_a_stream_goes_through_however_it_is_cut(cuts: list[int], strip: bool) -> None:
    whole = b"".join([*TOKENS, USAGE, END])
    marks = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    reader = EventStream(strip=strip)
    out = b"".join([reader.feed(whole[a:b]) for a, b in pairwise(marks)]) + reader.end()

    assert out == b"".join([*TOKENS, END] if strip else [*TOKENS, USAGE, END])
    assert reader.complete
    assert reader.usage is not None
    assert (reader.usage.prompt_tokens, reader.usage.output_tokens, reader.usage.cached_tokens) == (11, 4, 4)


def test_a_stream_that_ends_early_is_not_complete() -> None:
    reader = EventStream(strip=True)
    assert reader.feed(TOKENS[0] + b"data: {") + reader.end() == TOKENS[0] + b"data: {"
    assert not reader.complete


def test_events_that_end_with_carriage_returns_are_not_held_back() -> None:
    reader = EventStream(strip=True)
    assert reader.feed(b"data: {}\r\n\r\ndata") == b"data: {}\r\n\r\n"
    assert reader.end() == b"data"


def test_an_event_that_never_ends_is_not_held_for_ever() -> None:
    reader = EventStream(strip=True)
    out = sum(len(reader.feed(b"x" * 65_536)) for _ in range(40))
    assert out > 1_500_000


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"usage": null}', b'{"usage": {"prompt_tokens": "x"}}'])
def test_an_answer_without_a_usage_is_no_error(body: bytes) -> None:
    reader = WholeAnswer()
    assert reader.feed(body) + reader.end() == body
    assert reader.usage is None


@pytest.mark.parametrize("objectives_s", [(1.2,), (0.5, 1.2, 5.0), (0.3,), (3.0, 1.0)])
def test_every_objective_is_an_edge(objectives_s: tuple[float, ...]) -> None:
    made = edges(objectives_s)
    assert set(objectives_s) <= set(made)
    assert list(made) == sorted(set(made))
    assert made[0] < min(objectives_s)
    assert made[-1] >= 10 * max(objectives_s)


@pytest.mark.parametrize("rule", [RoutingRule, HealthRule, QueueRule, DegradationRule, CacheRule, ComplexityRule])
def test_a_rule_refuses_a_number_that_is_none(rule: Any) -> None:
    name = next(name for name, kind in rule.__annotations__.items() if kind in ("float", "int"))
    with pytest.raises(ValueError, match=name):
        rule(**{name: math.nan})
