"""Whose request is it: the four places of a key, and the rules where several are filled.

A key is looked up by its SHA-256: the look-up is the constant-time comparison, and nothing that
is kept or logged is a secret.  The same pass settles which of the client's credential fields may
go upstream where the client's own credential passes: never one that held a gateway key of any
kind, known, expired or revoked, nor a value that looks like one.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from aigw.errors import Code
from aigw.policy.compiled import Key
from aigw.wire.gate import CREDENTIAL_FIELDS

OWN_KEY_PREFIX = b"aigw-"
BEARER = b"bearer "


class Identity:
    """Who asks: a usable key, or the error that says why there is none.

    `key` is set as well where a known key is refused, so that the log can name it.
    `gateway_fields` are the credential fields that must not go upstream in any case.
    """

    __slots__ = ("error", "gateway_fields", "key")

    def __init__(self, key: Key | None, error: Code | None, gateway_fields: frozenset[bytes]):
        self.key = key
        self.error = error
        self.gateway_fields = gateway_fields


def identify(keys: Mapping[bytes, Key], fields: Mapping[bytes, bytes], wall_s: float) -> Identity:
    """Find the gateway key among the credential fields; `wall_s` is Unix time."""
    found: dict[str, Key] = {}
    own: set[bytes] = set()
    offered = False
    for name in CREDENTIAL_FIELDS:
        field = fields.get(name)
        if field is None:
            continue
        value = bare_value(name, field)
        if value is None:
            continue
        offered = True
        key = keys.get(sha256(value).digest())
        if key is not None:
            found[key.name] = key
        if key is not None or value.startswith(OWN_KEY_PREFIX):
            own.add(name)
    gateway_fields = frozenset(own)
    if len(found) > 1:
        return Identity(None, Code.AMBIGUOUS_API_KEY, gateway_fields)
    if not found:
        code = Code.INVALID_API_KEY if offered else Code.MISSING_API_KEY
        return Identity(None, code, gateway_fields)
    (key,) = found.values()
    return Identity(key, refusal_of(key, wall_s), gateway_fields)


def refusal_of(key: Key, wall_s: float) -> Code | None:
    """Why a known key may not be used now."""
    if key.revoked:
        return Code.INVALID_API_KEY
    if wall_s >= key.expires_at:
        return Code.EXPIRED_API_KEY
    return None


def bare_value(name: bytes, field: bytes) -> bytes | None:
    """The credential in a field: `Authorization` counts only with the scheme Bearer."""
    if name != b"authorization":
        return field or None
    if field[: len(BEARER)].lower() != BEARER:
        return None
    return field[len(BEARER) :].strip(b" \t") or None
