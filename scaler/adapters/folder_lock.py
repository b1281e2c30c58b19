"""One writer a data folder: a second daemon, or a tick by hand beside one, is refused before it opens anything.

Two writers would decide twice, scale twice and mix their journals. The lock is the kernel's (flock), so it is gone with
its process, however that ends. Readers (`get`, `explain`, `replay`, `export`) take none.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "headstart.lock"


class FolderInUse(OSError):
    """Another process writes in this data folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the folder's only writer inside the block. Raises `FolderInUse`, or `OSError` if the folder is unusable."""
    descriptor = _open(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise FolderInUse(
                f"{folder}: another Headstart (process {owner}) writes in this data folder; stop it, or choose another "
                "data_dir (`headstart tick --dry-run` and the reading commands work beside it)"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OSError(
            f"{folder}: headstart.db and its lock cannot be written here ({error.strerror}); "
            "set data_dir to a folder that this account may write"
        ) from error
