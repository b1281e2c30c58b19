"""Row 15 of the table: a cardinality bomb behind the metrics source, and what the process weighs meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fault_proxy import Fault, Proxied
from fault_world import FaultWorld

pytestmark = pytest.mark.server

RSS_LIMIT_MB = 512

_ROW = (
    b'{"metric":{"__name__":"vllm:request_success_total","namespace":"llm","pod":"chat-%07d","request_id":"%07d"},'
    b'"value":[1790000000.123,"17"]}'
)
_HEAD, _TAIL = b'{"status":"success","data":{"resultType":"vector","result":[', b"]}}"
_GIGABYTE = 2**30

_TICK = """
import json, sys
from pathlib import Path
from scaler.config import read_config
from scaler.daemon import tick_once
report = tick_once(read_config(Path(sys.argv[1])), dry_run=True)
(record,) = report.records
rss = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({
    "rss_mb": int(rss.split()[1]) / 1024,
    "reason": record.decision.reason, "target": record.decision.target,
    "blind": record.snapshot.classes[0].demand_rps.detail,
}))
"""


def _series(count: int) -> Fault:
    body = _HEAD + b",".join(_ROW % (number, number) for number in range(count)) + _TAIL

    def fault(request: Proxied) -> None:
        request.conversation.answer(200, body)

    return fault


def _gigabyte(request: Proxied) -> None:
    """A million series and more, chunk by chunk, until the other side has had enough."""
    request.conversation.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (_GIGABYTE, _HEAD)
    )
    chunk = b",".join(_ROW % (number, number) for number in range(8000))
    for _ in range(_GIGABYTE // len(chunk)):
        if not request.conversation.send(chunk + b","):
            return


@pytest.mark.parametrize(
    ("bomb", "says"),
    [
        pytest.param(_gigabyte, "the stream was cut", id="a gigabyte"),
        pytest.param(_series(200_000), "series in one answer", id="as many series as fit into the bytes allowed"),
    ],
)
def test_row_15_a_cardinality_bomb_is_cut_and_the_process_stays_small(
    world: FaultWorld, bomb: Fault, says: str
) -> None:
    world.proxy.always(bomb)
    config = world.config_file(prometheus=f'{{url: "{world.proxy.url}"}}')
    done = subprocess.run(
        [sys.executable, "-c", _TICK, str(config)], capture_output=True, text=True, timeout=120, check=True
    )
    told = json.loads(done.stdout)
    assert told["rss_mb"] < RSS_LIMIT_MB
    assert (told["reason"], told["target"]) == ("blind_demand", 1)
    assert says in told["blind"]
