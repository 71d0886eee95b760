"""One worker process: an event loop that does nothing but proxy."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aigw.memory import Memory


@dataclass(frozen=True, slots=True)
class WorkerChild:
    """What a worker inherits through the fork.

    `listeners` holds, by socket index, the listening sockets of each slot; the worker accepts on
    `listeners[socket_index]` and adopts others when told to.  `commands` is the read end of the
    master's pipe: lines, and its end means drain.
    """

    memory: Memory
    index: int
    socket_index: int
    listeners: list[list[socket.socket]]
    commands: int


def run_worker(child: WorkerChild) -> int:
    """Serve until told to drain; returns the exit status."""
    raise NotImplementedError
