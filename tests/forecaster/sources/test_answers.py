"""What the bytes of an answer say: the same as the JSON parser would, in less room; and never less strict."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import SourceMalformed
from forecaster.sources.answers import document_of, parse_rows

labels = st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.just('"values":[[1,"2"]]'), max_size=3)
values = st.floats(width=64).map(lambda x: {math.inf: "+Inf", -math.inf: "-Inf"}.get(x, "NaN" if x != x else repr(x)))
samples = st.lists(st.tuples(st.floats(0, 2e9), values).map(list), min_size=1, max_size=5)
ranges = st.lists(st.fixed_dictionaries({"metric": labels, "values": samples}), max_size=4)
instants = st.lists(st.fixed_dictionaries({"metric": labels, "value": samples.map(lambda some: some[0])}), max_size=4)


def answer(result: list[Any]) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def told(document: dict[str, Any]) -> list[tuple[dict[str, str], list[float], list[str]]]:
    """Rows to compare: NaN is not equal to itself, but reads the same."""
    rows = parse_rows(document["data"]["result"])
    return [(dict(row.labels), list(row.times), [repr(value) for value in row.values]) for row in rows]


@given(result=ranges | instants, compact=st.booleans())
def test_an_answer_says_what_the_parser_of_all_of_it_would_say(result: list[Any], compact: bool) -> None:
    """Written as Prometheus does, without spaces, or as others may; and whatever stands in a label."""
    content = json.dumps(answer(result), separators=(",", ":") if compact else None, ensure_ascii=False).encode()
    assert told(document_of(content)) == told(json.loads(content))


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param('{"metric":{},"values":[]}', id="no samples"),
        pytest.param('{"metric":{},"values":[[1]]}', id="a time alone"),
        pytest.param('{"metric":{},"values":[[1,"2"],[3]]}', id="a time alone, later"),
        pytest.param('{"metric":{},"values":[[1,"2",3,"4"]]}', id="two in one"),
        pytest.param('{"metric":{},"values":[[1,"2"],[[3,"4"]]]}', id="one too deep"),
        pytest.param('{"metric":{},"values":[[NaN,"2"]]}', id="a time that is no time"),
        pytest.param('{"metric":{},"values":[["x","2"]]}', id="a time that is a word"),
        pytest.param('{"metric":{},"values":[[1,"x"]]}', id="a value that is a word"),
        pytest.param('{"metric":{},"values":[[1,{}]]}', id="a value that is an object"),
        pytest.param('{"metric":{},"values":0}', id="a number"),
        pytest.param('{"metric":{},"values":[[1,"2"]]},{"metric":{},"values":0}', id="a number that is another's"),
        pytest.param('{"values":[[1,"2"]]}', id="no labels"),
    ],
)
def test_rows_of_another_shape_are_refused(rows: str) -> None:
    content = ('{"status":"success","data":{"resultType":"matrix","result":[' + rows + "]}}").encode()
    with pytest.raises(SourceMalformed, match="another shape"):
        parse_rows(document_of(content)["data"]["result"])


def test_samples_stay_with_their_row() -> None:
    """Keys that come twice count once, as in any JSON."""
    rows = '{"metric":{"a":"1"},"values":[[1,"2"]],"values":[[3,"4"]]},{"metric":{"a":"2"},"value":[5,"6"]}'
    content = ('{"status":"success","data":{"resultType":"matrix","result":[' + rows + "]}}").encode()
    assert told(document_of(content)) == [({"a": "1"}, [3.0], ["4.0"]), ({"a": "2"}, [5.0], ["6.0"])]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"data":{"result":[{"metric":{},"values":[[1,"2"', id="cut"),
        pytest.param(b'{"data":{"result":[{"metric":{},"values":[[1_0,"2"]]}]}}', id="no JSON number"),
        pytest.param(b'{"data":{"result":[{"metric":{},"values":[[1,"2"]]}]}', id="an end is missing"),
        pytest.param(b"<html>", id="a page"),
    ],
)
def test_what_is_no_json_is_told(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"line \d"):
        document_of(content)


def test_samples_take_the_room_of_their_numbers() -> None:
    """A day of a hundred series: as JSON's lists and strings 30 MB."""
    day = ",".join(f'[{1_700_000_000 + 60 * minute}.5,"{minute / 7}"]' for minute in range(1440))
    rows = ",".join(f'{{"metric":{{"pod":"{n}"}},"values":[{day}]}}' for n in range(100))
    content = f'{{"status":"success","data":{{"resultType":"matrix","result":[{rows}]}}}}'.encode()
    tracemalloc.start()
    try:
        document = document_of(content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(parse_rows(document["data"]["result"])) == 100
    assert most < 2 * len(content)
