"""May it pass, and where to: keys, limits, routes.  Pure and synchronous; time is an argument."""

from aigw.policy.compiled import (
    Key,
    Member,
    Policy,
    Route,
    UpstreamPolicy,
    compile_policy,
    load_policy,
    retain_rows,
)

__all__ = [
    "Key",
    "Member",
    "Policy",
    "Route",
    "UpstreamPolicy",
    "compile_policy",
    "load_policy",
    "retain_rows",
]
