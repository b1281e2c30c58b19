"""Freed memory goes back to the system, also when many threads freed it; cycles are looked for rarely."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

BLOCKS = """
import re, sys, threading
from pathlib import Path

def held_mib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

from scaler.adapters import heap
if sys.argv[1] == "little":
    assert heap.keep_little()
# Blocks of 8 MiB: once one was freed, glibc takes the next from its heap, where a small one on top keeps them all.
bytearray(8 << 20)
before, kept = held_mib(), []
def work():
    blocks = [bytearray(8 << 20) for _ in range(12)]
    kept.append(bytearray(4096))
    del blocks
for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(held_mib() - before)
"""


def kept_mib(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", BLOCKS, how], capture_output=True, text=True, check=True, timeout=60)
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such settings")
def test_what_was_freed_is_not_kept() -> None:
    assert kept_mib("usual") > 40.0, "glibc gives it back by itself now: drop the module"
    assert kept_mib("little") < 8.0


LOOKS = """
import gc, json, sys
from scaler.adapters import heap
if sys.argv[1] == "little":
    heap.look_rarely()
    heap.settle()
looks = []
gc.callbacks.append(lambda phase, info: looks.append(phase == "start"))
answer = json.dumps([{"metadata": {"name": str(n), "labels": {}}} for n in range(30_000)])
del looks[:]
read = json.loads(answer)
print(sum(looks))
"""

CYCLES = """
import gc, weakref
from scaler.adapters import heap
heap.look_rarely()
heap.settle()
class Link:
    pass
first = Link()
first.itself, gone = first, weakref.ref(first)
del first
kept = [[] for _ in range(60_000)]
print(gone() is None)
"""


def told_by(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_answer_of_many_pods_is_read_without_looking_for_cycles_at_every_turn() -> None:
    assert int(told_by(LOOKS, "usual")) > 100, "Python looks rarely by itself now: drop the settings"
    assert int(told_by(LOOKS, "little")) <= 2


def test_a_cycle_is_found_all_the_same() -> None:
    assert told_by(CYCLES) == "True"
