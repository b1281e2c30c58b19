"""The bytes of an answer as rows: labels, times and values, in the room that their numbers need.

It decides what is a row, and never what a value means: NaN and ±Inf stay. A range of 200,000 samples is 6 MB of text,
and would be 45 MB of lists, strings and numbers of their own; so the samples of each series are read into two arrays,
and only what is around them by the JSON parser.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forecaster.errors import SourceMalformed

_BEGINS, _ENDS = b'"values":[[', b"]]"
"""Around a series' samples, as Prometheus writes them. No label looks like this: within a text `"` is written `\\"`."""

_IN_SAMPLES = b'0123456789.+-eE,"[]NaInf'


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series of an answer: its labels, sample times in Unix seconds and sample values."""

    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Samples:
    """The samples of one series, apart from the JSON around them."""

    times: Sequence[float]
    values: Sequence[float]


def document_of(content: bytes) -> Any:
    """The JSON of an answer; a range's samples are `_Samples` where they are written as Prometheus writes them.

    `ValueError` for what is no JSON.
    """
    around: list[bytes] = []
    found: list[_Samples] = []
    at = 0
    try:
        while (begins := content.find(_BEGINS, at)) >= 0:
            inside = begins + len(_BEGINS)
            ends = content.index(_ENDS, inside)
            around += (content[at:begins], b'"values":%d' % len(found))
            found.append(_samples(content[inside:ends]))
            at = ends + len(_ENDS)
        if found:
            return _whole(json.loads(b"".join((*around, content[at:]))), found)
    except (ValueError, LookupError, TypeError):
        pass  # written in another way, or broken: the parser of all of it says which
    return json.loads(content)


def _samples(text: bytes) -> _Samples:
    """`1435781430.781,"1"],[1435781445.781,"2"` as two arrays; `ValueError` for anything else."""
    parts = text.replace(b"],[", b",").split(b",")
    times, values = parts[0::2], parts[1::2]
    quoted = all(each[:1] == b'"' == each[-1:] for each in values)
    if text.translate(None, _IN_SAMPLES) or len(parts) != 2 * (text.count(b"],[") + 1) or not quoted:
        raise ValueError("samples of another shape")
    return _Samples(array("d", map(float, times)), array("d", [float(each[1:-1]) for each in values]))


def _whole(document: Any, found: Sequence[_Samples]) -> Any:
    """Each row's samples in the place of their number; `ValueError` unless every row has its own."""
    result = document["data"]["result"]
    if [item["values"] for item in result] != list(range(len(found))):
        raise ValueError("rows of another shape")
    for item, samples in zip(result, found, strict=True):
        item["values"] = samples
    return document


def parse_rows(result: list[Any]) -> tuple[Row, ...]:
    """Prometheus' `result` as rows, which it is emptied into: of 2,000 workloads both at once are 80 MB.

    `SourceMalformed` if it is not a vector or a matrix; NaN and ±Inf stay.
    """
    rows = []
    try:
        result.reverse()
        while result:
            rows.append(_row(result.pop()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceMalformed(f"a row of the answer has another shape: {type(error).__name__}") from None
    return tuple(rows)


def _row(item: Mapping[str, Any]) -> Row:
    labels = {str(name): str(value) for name, value in item["metric"].items()}
    samples = item["values"] if "values" in item else [item["value"]]
    if not isinstance(samples, _Samples):
        times, values = tuple(float(at) for at, _ in samples), tuple(float(value) for _, value in samples)
        samples = _Samples(times, values)
    if not samples.times:
        raise ValueError("a row without a sample")
    if not all(map(math.isfinite, samples.times)):
        raise ValueError("a sample without a time")
    return Row(labels=labels, times=samples.times, values=samples.values)
