"""The controller process: health checks, admin listener and reload."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aigw.config import Listen, Settings
    from aigw.memory import Memory


@dataclass(frozen=True, slots=True)
class ControllerChild:
    """What the controller inherits through the fork.

    `listen` is what the master has bound: a reload can't change its address, admin and workers.
    `reload` reads the configuration anew and raises `ConfigError`.  `commands` is the read end of
    the master's pipe: lines `reload`, `reopen` and `restarted <reason>` (a worker was replaced: it
    is counted here, since the master has no words of its own), and its end means exit.  `report`
    is the write end of the pipe to the master.
    """

    memory: Memory
    admin: socket.socket | None
    listen: Listen
    commands: int
    report: int
    reload: Callable[[], Settings]


def run_controller(child: ControllerChild) -> int:
    """Control until the master's pipe ends; returns the exit status."""
    raise NotImplementedError
