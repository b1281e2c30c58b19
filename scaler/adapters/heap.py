"""What the process keeps of freed memory, and how often it looks for unused cycles: little of both.

It decides nothing else. glibc gives each thread a heap of its own, and once a large block was freed keeps blocks of
that size for later; a daemon that reads answers in threads and learns from portions of 14 days then holds some 120 MB
more than it uses (2,000 workloads: 426 instead of 302 MB).

Python looks for cycles whenever 700 more objects were made than freed. A tick of 2,000 workloads makes and frees
half a million (answers, records), hardly one in a cycle, and each look walks them again: a third of its processor time.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 128 * 1024
"""glibc's own first value; setting it keeps it from growing to 32 MB by itself."""

_LOOK_EVERY = (50_000, 10, 10)
"""Objects between two looks at the youngest, and such looks between two at the older and at the oldest: of 2,000
workloads some ten a tick, one a tick, one every ten ticks. What hangs in a cycle until then was 11 MiB."""


def keep_little() -> bool:
    """Give freed memory back to the system; False where the C library has no such settings. Before the first thread."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_TRIM_THRESHOLD, _LARGE_BYTES))
    taken = [mallopt(setting, value) == 1 for setting, value in wanted]
    return all(taken)


def look_rarely() -> None:
    """Look for cycles rarely from now on, for a process that reads large answers again and again."""
    gc.set_threshold(*_LOOK_EVERY)


def settle() -> None:
    """Leave what is here now out of all later looks: code and settings, which stay as long as the process."""
    gc.freeze()
