"""What is opened before the first fork: the log, sockets, shared memory, the first policy.

Not here: what becomes of it (master).  All children inherit it, or a part of it; whatever cannot be
had is a StartError, and then everything is closed again.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigw.admin.listener import refuse_unprotected
from aigw.errors import StartError, in_one_line
from aigw.host import worker_count
from aigw.memory import Memory
from aigw.observe.access_log import check_destination
from aigw.policy import compile_policy, load_policy
from aigw.sharing import Inboxes
from aigw.sockets import (
    LEAST_ROOM,
    Room,
    address_of,
    bind_admin,
    bind_listeners,
    close_listeners,
    open_file_limit,
    own_files,
    places,
    spread,
    take_inherited,
)
from aigw.upstreams.connector import prepare_tls

if TYPE_CHECKING:
    from aigw.config import Settings

log = logging.getLogger("aigw")


@dataclass(frozen=True, slots=True)
class Common:
    """What all children are given, or a part of it; made before the first fork."""

    settings: Settings
    reload: Callable[[], Settings]
    memory: Memory
    listeners: list[list[socket.socket]]
    admin: socket.socket | None
    inboxes: Inboxes

    def addresses(self) -> tuple[str, str]:
        """Where data and admin listeners are, for the log."""
        data = ", ".join(str(address_of(listener)) for listener in self.listeners[0])
        return data, f"on {address_of(self.admin)}" if self.admin else "off"

    def close(self) -> None:
        """Close all, remove our socket files; may be called twice."""
        close_listeners(self.listeners)
        self.inboxes.close()
        if self.admin:
            close_listeners([[self.admin]])


def open_common(settings: Settings, reload: Callable[[], Settings]) -> Common:
    """Open everything, and say where it listens.  Raises StartError."""
    _log_to_stderr(settings.log.level)
    slots = worker_count(settings.listen.workers)
    own = own_files(slots, len(settings.listen.address))
    files = open_file_limit(own + LEAST_ROOM)
    connections = min(settings.limits.connections, places(files, own).connections)
    check_destination(settings.log.access)
    common = _bind(settings, reload, slots)
    try:
        _publish_first_policy(settings, common.memory)
    except BaseException:
        common.close()
        raise
    log.info("listening on %s, admin %s", *common.addresses())
    log.info("%d workers, %d connections each (%d open files)", slots, connections, files)
    if connections < settings.limits.connections:
        log.warning(
            "only %d of limits.connections = %d fit the open-file limit (raise ulimit -n)",
            *(connections, settings.limits.connections),
        )
    return common


def _bind(settings: Settings, reload: Callable[[], Settings], slots: int) -> Common:
    inherited = take_inherited(os.environ)
    listen = settings.listen
    room = Room(listen.backlog, listen.send_buffer_bytes, listen.receive_buffer_bytes)
    if inherited.data:  # its unit has options of the same meaning
        listeners = spread([[listener] for listener in inherited.data], slots)
    else:
        listeners = bind_listeners(listen.address, slots, room)
    admin: socket.socket | None = inherited.admin
    try:
        admin = admin or bind_admin(listen.admin)
        refuse_unprotected(admin, listen.admin_token)
        return Common(settings, reload, Memory.create(slots), listeners, admin, Inboxes(slots))
    except BaseException:
        close_listeners([*listeners, [admin] if admin else []])
        raise


def _publish_first_policy(settings: Settings, memory: Memory) -> None:
    """Compile and publish version 1; an unusable certificate or a missing file is a StartError."""
    try:
        blob = compile_policy(settings, memory, time.monotonic())
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from error
    # Contexts made here are inherited by all workers, who need not read the trust store again.
    prepare_tls(load_policy(blob).upstreams)
    memory.policy.publish(blob)


def _log_to_stderr(level: str) -> None:
    """The operational log, for this process and all that it forks."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s [%(process)d] %(message)s"))
    for logger in (log, logging.getLogger("asyncio")):
        logger.handlers[:] = [handler]
        logger.propagate = False
    log.setLevel(level.upper())


class Formatter(logging.Formatter):
    """A traceback, as the event loop logs one, in our words: without the error's own text."""

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802
        return in_one_line(ei[1]) if ei[1] is not None else ""
