"""All faults, and what must come of each: the one place where that stands."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import NamedTuple

from tests.faults import processes, reloads, resources, upstreams
from tests.faults.outcome import Expected, Outcome
from tests.faults.servers import Server
from tests.faults.traffic import Size

NOTHING_FALLS = Expected()
# Contracts are the 1 s (2 s, if one hangs) until a revoked key is refused, the 1 s until a killed
# worker is replaced, the 5 s until a hanging one is killed, and the 5 s that a member rests which
# could not be reached.  The other times tell a fault from a busy machine, not fast from slow.


class Fault(NamedTuple):
    """A fault: how it is made, what must come of it, and whether nginx can be put through it."""

    title: str
    make: Callable[[type[Server], Size], Coroutine[None, None, Outcome]]
    expected: Expected
    nginx: bool = True


FAULTS: dict[str, Fault] = {
    "reload": Fault("four reloads in 8 s", reloads.reload, Expected(5.0)),
    "broken-file": Fault("reload with a broken file", reloads.broken_file, NOTHING_FALLS),
    "revoked-key": Fault(
        "reload that revokes a key, until its last request", reloads.revoked_key, Expected(1.0)
    ),
    "revoked-key-hanging": Fault(
        "the same while a worker hangs",
        reloads.revoked_key_at_a_hanging_worker,
        Expected(2.0),
        nginx=False,
    ),
    "many-keys": Fault(
        "reload of 10,000 keys, three times", reloads.many_keys, Expected(15.0), nginx=False
    ),
    "drain": Fault("SIGTERM (nginx: SIGQUIT)", processes.drain, NOTHING_FALLS),
    "kill-worker": Fault(
        "kill -9 of a worker", processes.kill_worker, Expected(1.0, may_fall=True)
    ),
    "kill-controller": Fault(
        "kill -9 of the controller, twice", processes.kill_controller, Expected(3.0), nginx=False
    ),
    "kill-master": Fault(
        "kill -9 of the master", processes.kill_master, NOTHING_FALLS, nginx=False
    ),
    "stop-worker": Fault(
        "SIGSTOP of a worker: it hangs", processes.stop_worker, Expected(7.0, may_fall=True)
    ),
    "upstream-refuses": Fault(
        "a member's port is closed for 1 s", upstreams.refuses, Expected(6.5, told=None)
    ),
    "upstream-flaps": Fault("a member is up and down", upstreams.flaps, Expected(6.5, told=None)),
    "upstream-stalls": Fault(
        "an upstream takes requests and is silent", upstreams.stalls, Expected(1.5, told=True)
    ),
    "upstream-drips": Fault("an upstream sends byte by byte", upstreams.drips, NOTHING_FALLS),
    "upstream-resets": Fault(
        "an upstream resets connections",
        upstreams.resets,
        Expected(1.0, may_fall=True, told=True),
    ),
    "full-disk": Fault("the access log's disk is full", resources.full_disk, Expected(2.0)),
    "idle": Fault("10,000 idle connections", resources.idle_connections, NOTHING_FALLS),
    "streams": Fault("2,000 open streams", resources.open_streams, NOTHING_FALLS),
    "clock": Fault(
        "the wall clock jumps by days", resources.clock_jumps, NOTHING_FALLS, nginx=False
    ),
}
