"""For tests of shared memory: the same work in several real processes at once."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable


def run_forked(processes: int, work: Callable[[int], bytes]) -> list[bytes]:
    """Fork so many children, run `work(index)` in each; returns what they returned, by index."""
    children = [_fork(index, work) for index in range(processes)]
    return [_collect(pid, reader) for pid, reader in children]


def _fork(index: int, work: Callable[[int], bytes]) -> tuple[int, int]:
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that other tests may have left; the child uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:
        os.close(reader)
        with os.fdopen(writer, "wb") as file:
            file.write(work(index))
        status = 0
    finally:  # nothing of the test above may run twice, not even when `work` fails
        if status:
            traceback.print_exc()
        os._exit(status)


def _collect(pid: int, reader: int) -> bytes:
    with os.fdopen(reader, "rb") as file:
        told = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"child ended with {os.waitstatus_to_exitcode(status)}"
    return told
