"""What the admin listener shows: whether aigw is ready, its upstreams, its metrics.

Made at each question from shared memory and from the policy in force; nothing is kept here.
Members are shown by `host:port`, never by a URL, and nothing of a policy's secrets is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from aigw.memory import Memory, WorkerState
from aigw.observe.metrics import Labels, Totals
from aigw.policy.compiled import Member, Policy
from aigw.upstreams.health import HEALTHY

STATES = ("healthy", "half-open", "out")  # as upstream_state counts them
ActiveState = Callable[[int], int | None]  # of a member's row; None without an active check


def unready(memory: Memory) -> str | None:
    """Why no new traffic should come here; None if it should."""
    if memory.control.draining:
        return "draining"
    serving = (memory.workers[index].state == WorkerState.SERVING for index in range(memory.used))
    return None if any(serving) else "no worker is serving"


def scrape(memory: Memory, policy: Policy, totals: Totals, active: ActiveState) -> bytes:
    """The metrics of all processes in the text format."""
    # With prometheus-client 3 MiB and 20 ms, for those who scrape and when they do.
    from aigw.observe.exposition import exposition

    states: dict[Labels, int] = {
        (upstream.name, member.label): _state(upstream.name, member, totals, active)
        for upstream in policy.upstreams
        for member in upstream.members
    }
    return exposition(
        totals,
        {
            "upstream_state": states,
            "policy_version": {(): memory.policy.version},
            "build_info": {(_version(),): 1},
        },
    )


@cache
def _version() -> str:
    """Of what runs; imported here, since it takes 15 ms, which no start should wait for."""
    from importlib.metadata import version

    return version("aigw")


def upstreams(memory: Memory, policy: Policy, totals: Totals, active: ActiveState) -> object:
    """Each upstream with its members: state, verdict of the active check, connections."""
    return {
        "policy_version": memory.policy.version,
        "upstreams": [
            {
                "upstream": upstream.name,
                "balance": upstream.balance,
                "members": [
                    _member(upstream.name, member, totals, active) for member in upstream.members
                ],
            }
            for upstream in policy.upstreams
        ],
    }


def _member(upstream: str, member: Member, totals: Totals, active: ActiveState) -> object:
    checked = active(member.health_row)
    return {
        "member": member.label,
        "state": STATES[_state(upstream, member, totals, active)],
        "active_health": None if checked is None else STATES[checked],
        "in_use": totals.value("upstream_connections", upstream, member.label, "in_use"),
        "idle": totals.value("upstream_connections", upstream, member.label, "idle"),
    }


def _state(upstream: str, member: Member, totals: Totals, active: ActiveState) -> int:
    """The worse of what the active check and what the workers' own experience say."""
    passive = totals.value("upstream_state", upstream, member.label)
    return max(active(member.health_row) or HEALTHY, passive)
