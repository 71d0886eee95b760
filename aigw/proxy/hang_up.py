"""Hang-ups of clients that are not read from at the moment.

While an upstream takes nothing of a body, or is being connected to, its client is not read from, or
the gateway would have to hold the body.  But a FIN or a reset is only told to who reads, so at each
sweep the kernel is asked for them.  What may wait to be read in front of a FIN is not looked at: as
where a FIN is read, who has ended his side is not waited for.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from aigw.proxy.client import ClientConnection

# POLLHUP and POLLERR are told unasked.  Without POLLRDHUP (off Linux) a FIN is seen when the body
# is read on, or the request has failed.
WANTED = getattr(select, "POLLRDHUP", 0)


def hung_up(clients: Collection[ClientConnection]) -> list[ClientConnection]:
    """Those whose side of the connection has ended."""
    if not clients:
        return []
    asked, by_file = select.poll(), {client.file: client for client in clients}
    for file in by_file:
        asked.register(file, WANTED)
    return [by_file[file] for file, _ in asked.poll(0)]
