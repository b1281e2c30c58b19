"""Dataclasses as columns: exact, typed, and readable under an older layout.

Properties:
- what is encoded is decoded, to the last bit, NaN, infinities, -0.0 and subnormals included
- equal values have equal digests in another process, other values other digests
- no damaged block decodes to something else than an error or a list of rows
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import subprocess
import sys
import types
import typing
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, StrEnum
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.types import EPOCH, Blind, BlindReason, Forecast, Known
from scaler.adapters.codec import Codec, CodecError, digest, to_plain
from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent, ScheduledRule, TimeWindow
from scaler.policy.types import Decision, PolicyState, Reason, Snapshot

NOW = datetime(2026, 11, 4, 10, 15, 30, 123457, tzinfo=UTC)


def any_value(kind: Any) -> st.SearchStrategy[Any]:
    """Every value that the annotation allows."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([any_value(each) for each in arguments])
    if origin is tuple:
        return st.lists(any_value(arguments[0]), max_size=3).map(tuple)
    if origin is Literal:
        return st.sampled_from(arguments)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{f.name: any_value(hints[f.name]) for f in dataclasses.fields(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    return {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(),
        str: st.text(st.characters(), max_size=8),
        datetime: st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0)),  # no meaning in UTC
        timedelta: st.timedeltas(),
    }[kind]


@pytest.mark.parametrize("kind", [Snapshot, PolicyState, Decision, Forecast], ids=lambda kind: kind.__name__)
def test_every_value_comes_back_exactly(kind: type) -> None:
    codec = Codec(kind)

    @settings(max_examples=60, deadline=None)
    @given(rows=st.lists(any_value(kind), max_size=4))
    def comes_back(rows: list[Any]) -> None:
        decoded = codec.decode(codec.encode(rows), layout=codec.layout)
        assert repr(decoded) == repr(rows)
        assert [digest(row) for row in decoded] == [digest(row) for row in rows]

    comes_back()


def a_policy() -> WorkloadPolicy:
    return WorkloadPolicy(
        workload="llm/chat",
        profile=CapacityProfile(name="llama on H100", classes=(ClassCapacity(name="default", max_rps=4.1),), gpus=2),
        start_time=timedelta(seconds=187.000001),
        latency=LatencyRule(slos=(Slo(e2e_p95_s=10.0), Slo(request_class="batch", ttft_p95_s=30.0))),
        scheduled=ScheduledRule(
            events=(
                ScheduledEvent(
                    name="launch",
                    start=NOW,
                    end=NOW + timedelta(hours=2),
                    expected_peak=(ExpectedDemand(request_class="default", rps=50.0),),
                ),
            ),
            windows=(
                TimeWindow(name="office", start=time(9, 30), end=time(18), timezone="Asia/Kolkata", min_replicas=2),
            ),
        ),
    )


def test_settings_come_back_exactly() -> None:
    codec = Codec(WorkloadPolicy)
    assert codec.decode(codec.encode([a_policy(), a_policy()]), layout=codec.layout) == [a_policy(), a_policy()]


def test_shared_values_are_kept_elsewhere() -> None:
    @dataclasses.dataclass(frozen=True)
    class Use:
        policy: WorkloadPolicy
        count: int

    Use.__annotations__ |= {"policy": WorkloadPolicy, "count": int}
    codec = Codec(Use, shared=(WorkloadPolicy,))
    block = codec.encode([Use(a_policy(), 3)], intern=lambda value: {"llm/chat": 7}[value.workload])
    assert codec.decode(block, layout=codec.layout, resolve={7: "seven"}.__getitem__) == [Use("seven", 3)]  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="no place was given"):
        codec.encode([Use(a_policy(), 3)])


class Colour(StrEnum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Old:
    kept: int
    gone: str
    state: Known | None


@dataclasses.dataclass(frozen=True)
class New:
    kept: int
    state: Blind | Known | None
    added: float = 0.5
    colour: Colour = Colour.RED
    more: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Required:
    kept: int
    state: Known | None
    needed: float


def test_an_older_layout_is_read_by_names() -> None:
    old = Codec(Old)
    block = old.encode([Old(1, "x", Known(value=2.0)), Old(2, "y", None)])
    assert Codec(New).decode(block, layout=old.layout) == [New(1, Known(value=2.0)), New(2, None)]


def test_an_older_layout_without_a_field_that_is_needed_is_refused() -> None:
    old = Codec(Old)
    with pytest.raises(CodecError, match="needed"):
        Codec(Required).decode(old.encode([Old(1, "x", None)]), layout=old.layout)


@dataclasses.dataclass(frozen=True)
class Plain:
    number: int = 0
    share: float = 0.0
    at: datetime | None = None
    name: str = ""
    day: date = date(2026, 1, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param(Plain(number=1.5), "float", id="a float is no int"),  # type: ignore[arg-type]
        pytest.param(Plain(number=2**63), "int too large", id="beyond 64 bits"),
        pytest.param(Plain(at=datetime(2026, 1, 1)), "without a zone", id="naive time"),  # noqa: DTZ001
        pytest.param(Plain(at="now"), "annotation", id="text for a time"),  # type: ignore[arg-type]
        pytest.param(Plain(share="much"), "much", id="text for a number"),  # type: ignore[arg-type]
        pytest.param(Snapshot, "annotation", id="another type"),
    ],
)
def test_a_value_that_is_not_of_its_type_is_refused(row: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        Codec(Plain).encode([row])


def test_a_type_without_a_codec_is_refused_at_once() -> None:
    @dataclasses.dataclass
    class Bag:
        things: Any = None

    Bag.__annotations__["things"] = dict[str, int]
    with pytest.raises(CodecError, match=r"no codec for dict\[str, int\] at \.things"):
        Codec(Bag)


def test_times_in_other_zones_come_back_as_the_same_moment() -> None:
    codec = Codec(Plain)
    there = NOW.astimezone(ZoneInfo("Asia/Kolkata"))
    (row,) = codec.decode(codec.encode([Plain(at=there)]), layout=codec.layout)
    assert row.at == there
    assert row.at.tzinfo is UTC


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_block_never_becomes_anything_but_an_error_or_rows(data: st.DataObject) -> None:
    codec = Codec(Plain)
    block = bytearray(codec.encode([Plain(number=i, at=EPOCH, name=str(i)) for i in range(5)]))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(block)))
    for damaged in (bytes(block), bytes(block[:cut])):
        with contextlib.suppress(CodecError):
            assert isinstance(codec.decode(damaged, layout=codec.layout), list)


def test_a_block_of_another_layout_is_refused() -> None:
    with pytest.raises(CodecError):
        Codec(Plain).decode(Codec(Plain).encode([Plain()]), layout=Codec(PolicyState).layout)
    with pytest.raises(CodecError, match="not a layout"):
        Codec(Plain).decode(Codec(Plain).encode([Plain()]), layout="{}")


@given(first=st.floats(), second=st.floats())
def test_digests_tell_values_apart(first: float, second: float) -> None:
    same = repr(first) == repr(second)
    assert (digest(Known(value=first)) == digest(Known(value=second))) == same


def test_a_digest_is_the_same_in_another_process() -> None:
    code = (
        "from scaler.adapters.codec import digest; from scaler.policy.types import *; from datetime import *;"
        "print(digest(Decision(workload='a', at=datetime(2026, 11, 4, tzinfo=UTC), current=1, target=2,"
        "reason=Reason.LOAD, z=float('nan'))))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    at = datetime(2026, 11, 4, tzinfo=UTC)
    assert int(answer) == digest(Decision(workload="a", at=at, current=1, target=2, reason=Reason.LOAD, z=math.nan))


def test_plain_values_are_what_json_needs() -> None:
    blind = Blind(reason=BlindReason.TIMEOUT, detail="8 s")
    assert to_plain(Decision(workload="a", at=NOW, current=None, target=2, reason=Reason.LOAD)) == {
        "workload": "a",
        "at": "2026-11-04T10:15:30.123457+00:00",
        "current": None,
        "target": 2,
        "reason": "load",
        "proposals": [],
        "adjustments": [],
        "trust": "no_forecast",
        "z": 0.0,
    }
    assert to_plain((blind, timedelta(seconds=1.5), {"a": time(9)})) == [
        {"reason": "timeout", "detail": "8 s", "kind": "blind"},
        1.5,
        {"a": "09:00:00"},
    ]
    with pytest.raises(CodecError, match="no JSON for bytes"):
        to_plain(b"")
