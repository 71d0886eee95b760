"""Durations, sizes, variables and secrets: text in, value out, `OptionError` where it can't be.

Nothing here knows of files or options.  A message never repeats a text that may be a secret.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from aigw.config.problems import OptionError

UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
UNIT_BYTES = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
# Beyond a year no deadline has a meaning, and nanoseconds still fit a 64-bit word by far.
MAX_DURATION_S = 366 * 86400.0
# What a 64-bit counter of bytes can never wrap at.
MAX_SIZE_BYTES = 2**53

_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)\Z")
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)
_DIGEST = re.compile(r"sha256:[0-9a-fA-F]{64}\Z")
_STATUS_BELOW = re.compile(r"<([1-9][0-9]{2})\Z")
_STATUS_RANGE = re.compile(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?\Z")


class Secret(str):
    """Text that is never shown: repr, str and format give `***`; `reveal()` gives the text.

    Being a str it compares, hashes, encodes and concatenates as the text itself.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def reveal(self) -> str:
        return str.__str__(self)


def duration_s(text: str) -> float:
    """`"250ms"`, `"1.5s"`, `"5m"`, `"24h"`, `"30d"` in seconds."""
    match = _QUANTITY.match(text)
    if match is None:
        raise OptionError('must be a duration such as "250ms", "10s", "5m", "24h" or "30d"')
    number, unit = match.groups()
    if unit not in UNIT_S:
        if not unit:
            raise OptionError(f'needs a unit: "{number}s"? (ms, s, m, h, d)')
        raise OptionError("unknown unit of time, known are ms, s, m, h, d")
    seconds = float(number) * UNIT_S[unit]
    if seconds > MAX_DURATION_S:
        raise OptionError('is too long, the most is "366d"')
    return seconds


def size_bytes(text: str) -> int:
    """`"32KiB"`, `"100MiB"`, `"1.5MB"`, `"1024"` in bytes."""
    match = _QUANTITY.match(text)
    if match is None:
        raise OptionError('must be a size such as "32KiB", "100MiB" or "1GB"')
    number, unit = match.groups()
    if unit and unit not in UNIT_BYTES:
        by_lower = {known.lower(): known for known in UNIT_BYTES}
        near = by_lower.get(unit.lower())
        hint = f'did you mean "{number}{near}"?' if near else "known are B, KB … TB, KiB … TiB"
        raise OptionError(f"unknown unit of size, {hint}")
    size = float(number) * UNIT_BYTES[unit or "B"]
    if size != int(size):
        raise OptionError("must come to a whole number of bytes")
    if size > MAX_SIZE_BYTES:
        raise OptionError("is too large")
    return int(size)


def expand(text: str, environ: Mapping[str, str], secret: bool = False) -> str:
    """Put `${VAR}` and `${VAR:-default}` in; `$${` stands for a literal `${`.

    The default takes the place of a variable that is unset or empty, as in a shell; where the text
    is a secret, nobody is advised to write one.
    """
    if "${" not in text:
        return text

    def put_in(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        if not match[2]:
            raise OptionError('"${" without "}" (write "$${" for a literal "${")')
        reference = _REFERENCE.match(match[1])
        if reference is None:
            raise OptionError(
                'must be "${NAME}" or "${NAME:-default}" (write "$${" for a literal "${")'
            )
        name, default = reference.groups()
        value = environ.get(name)
        if value is None and default is None:
            cure = "set it" if secret else f'set it or write "${{{name}:-default}}"'
            raise OptionError(f"variable {name} is not set, {cure}")
        return (value or default or "") if default is not None else (value or "")

    return _VARIABLE.sub(put_in, text)


def status_range(expect: str) -> range:
    """The statuses that `"<500"`, `"200"` or `"200-399"` accepts."""
    if below := _STATUS_BELOW.match(expect):
        return range(100, int(below[1]))
    if match := _STATUS_RANGE.match(expect):
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last:
            return range(first, last + 1)
    raise OptionError('must be a status, a range or a bound: "200", "200-399" or "<500"')


def gateway_key(text: str) -> str:
    """A key as clients send it, or the `sha256:` of one."""
    if text.startswith("sha256:") and not _DIGEST.match(text):
        raise OptionError(
            '"sha256:" must be followed by 64 hexadecimal digits (see `aigw keys new`)'
        )
    return visible(text)


def own_token(text: str) -> str:
    """A token that aigw itself sends, too (`aigw reload`), so that its digest is not enough."""
    if text.startswith("sha256:"):
        raise OptionError("must be the token itself, not its digest")
    return visible(text)


def visible(text: str) -> str:
    """A text that can stand in a header field: visible ASCII, no space."""
    if not text:
        raise OptionError("must not be empty")
    if not all("!" <= char <= "~" for char in text):
        raise OptionError("must be visible ASCII without spaces, as it stands in a header field")
    return text


def key_digest(key: str) -> bytes:
    """The SHA-256 of a configured key, whether it is given plainly or as `sha256:`."""
    if key.startswith("sha256:"):
        return bytes.fromhex(key[len("sha256:") :])
    return hashlib.sha256(key.encode()).digest()


def new_key() -> str:
    """A new gateway key: 256 random bits in 43 characters that need no quoting anywhere."""
    from secrets import token_urlsafe  # with what it imports 2 ms, which no start should wait for

    return "aigw-" + token_urlsafe(32)
