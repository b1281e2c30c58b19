"""Orders on the workload itself: what each annotation says, and that a misunderstanding never lets us write more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import NOON
from scaler.adapters.control_annotations import (
    MODE,
    OVERRIDE,
    PAUSED,
    AnnotatedControls,
    control_from_annotations,
)
from scaler.policy.types import NO_CONTROL, Control, Mode, ModeSwitch, Override, Pause, Source

SIX = datetime(2026, 3, 2, 18, 0, tzinfo=UTC)
NOTE = Source.ANNOTATION


def override(replicas: int, reason: str = "") -> Control:
    return Control(override=Override(replicas=replicas, until=SIX, source=NOTE, reason=reason))


@pytest.mark.parametrize(
    ("annotations", "control"),
    [
        pytest.param({}, NO_CONTROL, id="none"),
        pytest.param({"kubectl.kubernetes.io/restartedAt": "x"}, NO_CONTROL, id="somebody else's"),
        pytest.param({PAUSED: "true"}, Control(pause=Pause(source=NOTE)), id="paused"),
        pytest.param(
            {PAUSED: " True: new node pool "}, Control(pause=Pause(source=NOTE, reason="new node pool")), id="why"
        ),
        pytest.param({PAUSED: "false"}, NO_CONTROL, id="not paused"),
        pytest.param({OVERRIDE: "8 until 2026-03-02T18:00:00Z: load test"}, override(8, "load test"), id="override"),
        pytest.param({OVERRIDE: "8 until 2026-03-02T18:00:00Z"}, override(8), id="without a reason"),
        pytest.param({OVERRIDE: "8 until 2026-03-02T19:00:00+01:00: a: b"}, override(8, "a: b"), id="another zone"),
        pytest.param({OVERRIDE: "0 until 2026-03-02T18:00:00Z"}, override(0), id="none at all"),
        pytest.param({OVERRIDE: "8 until 2026-03-02T12:00:00Z"}, NO_CONTROL, id="over already"),
        pytest.param({MODE: "observe"}, Control(mode=ModeSwitch(mode=Mode.OBSERVE, source=NOTE)), id="mode"),
    ],
)
def test_says(annotations: dict[str, str], control: Control) -> None:
    assert control_from_annotations(annotations, now=NOON) == (control, ())


@pytest.mark.parametrize(
    ("annotations", "paused", "words"),
    [
        pytest.param({PAUSED: "yes"}, True, 'must be "true" or "false", got \'yes\'', id="paused, in other words"),
        pytest.param(
            {MODE: "obsreve"},
            True,
            "must be one of observe, active, floor, publish, got 'obsreve'",
            id="a misspelt mode",
        ),
        pytest.param({OVERRIDE: "8"}, False, "must look like", id="an override without an end"),
        pytest.param(
            {OVERRIDE: "8 until 18:00"}, False, "must be a moment with its zone", id="an end that is no moment"
        ),
        pytest.param({OVERRIDE: "-8 until 2026-03-02T18:00:00Z"}, False, "must look like", id="fewer than none"),
        pytest.param({OVERRIDE: "9999999999 until 2026-03-02T18:00:00Z"}, False, "must look like", id="too many"),
    ],
)
def test_what_cannot_be_read_is_told_and_errs_on_the_careful_side(
    annotations: dict[str, str], paused: bool, words: str
) -> None:
    control, (problem,) = control_from_annotations(annotations, now=NOON)
    assert words in problem
    assert (control.pause is not None) is paused
    assert control.override is control.mode is None


@given(
    annotations=st.dictionaries(st.sampled_from([PAUSED, OVERRIDE, MODE]), st.text(max_size=60)),
    ahead=st.integers(-10, 10),
)
def test_whatever_stands_there_nothing_is_raised_and_nothing_outlives_its_end(
    annotations: dict[str, str], ahead: int
) -> None:
    now = SIX + timedelta(minutes=ahead)
    stated = {OVERRIDE: f"8 until {SIX:%FT%TZ}", **annotations}
    control, _ = control_from_annotations(stated, now=now)
    assert control.override is None or now < control.override.until


class File:
    """A first place, in which an override of four and `enable` stand."""

    control = Control(override=Override(replicas=4, until=SIX), mode=ModeSwitch(mode=Mode.ACTIVE))

    def of(self, workload: str, *, now: datetime) -> Control:
        return self.control


@pytest.mark.parametrize(
    ("annotations", "control"),
    [
        pytest.param({}, File.control, id="nothing on the workload"),
        pytest.param(
            {PAUSED: "true"}, replace(File.control, pause=Pause(source=NOTE)), id="whoever stops it is obeyed"
        ),
        pytest.param(
            {MODE: "observe"},
            replace(File.control, mode=ModeSwitch(mode=Mode.OBSERVE, source=NOTE)),
            id="observe goes before active",
        ),
        pytest.param({OVERRIDE: "8 until 2026-03-02T18:00:00Z"}, File.control, id="the file's override goes first"),
    ],
)
def test_two_places(annotations: dict[str, str], control: Control) -> None:
    both = AnnotatedControls(File(), lambda workload: annotations if workload == "llm/chat" else {})
    assert both.of("llm/chat", now=NOON) == control
    assert both.of("llm/code", now=NOON) == File.control
    assert both.problems("llm/chat", now=NOON) == ()


def test_a_problem_of_an_annotation_is_told() -> None:
    both = AnnotatedControls(File(), lambda _: {OVERRIDE: "8"})
    assert len(both.problems("llm/chat", now=NOON)) == 1
