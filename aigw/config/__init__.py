"""gateway.toml into typed settings, every fault with its file, line and cure.

schema        every option: type, default, reader and doc line; the structs that others use
readers       from a TOML value to a setting: types, ranges, variables, secrets, tables
values        durations, sizes, variables, status ranges: text in, value out
grammar       addresses, URLs, paths, header fields: text in, checked text out
certificates  whether a PEM file can be loaded (the only part that needs ssl)
checks        what one option alone can't tell: references, doubles, contradictions
problems      what is wrong, and where
positions     the line of every key of a valid TOML text
load          the files read, the parts above put together
zero_config   settings from provider variables, without a file
describe      settings in words, without secrets
"""

from aigw.config.describe import describe
from aigw.config.load import load, load_admin, override
from aigw.config.problems import ConfigError, Problem
from aigw.config.schema import (
    HealthSettings,
    KeySettings,
    Limits,
    Listen,
    Log,
    PoolSettings,
    RouteSettings,
    RouteTimeouts,
    Settings,
    TargetSettings,
    Timeouts,
    UpstreamSettings,
)
from aigw.config.values import Secret, key_digest, new_key, status_range
from aigw.config.zero_config import ZeroConfig, zero_config

__all__ = [
    "ConfigError",
    "HealthSettings",
    "KeySettings",
    "Limits",
    "Listen",
    "Log",
    "PoolSettings",
    "Problem",
    "RouteSettings",
    "RouteTimeouts",
    "Secret",
    "Settings",
    "TargetSettings",
    "Timeouts",
    "UpstreamSettings",
    "ZeroConfig",
    "describe",
    "key_digest",
    "load",
    "load_admin",
    "new_key",
    "override",
    "status_range",
    "zero_config",
]
