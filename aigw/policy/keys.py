"""Whose request is it: the four places of a key, and the rules where several are filled.

A key is looked up by its SHA-256: the look-up is the constant-time comparison, and nothing that
is kept or logged is a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from aigw.errors import Code
from aigw.policy.compiled import Key
from aigw.wire.gate import CREDENTIAL_FIELDS

OWN_KEY_PREFIX = b"aigw-"
BEARER = b"bearer "

# A credential field's lower-case name and the bare credential in it.
Credential = tuple[bytes, bytes]


def credentials_in(fields: Mapping[bytes, bytes]) -> list[Credential]:
    """The credentials among a head's fields; `Authorization` counts only with the scheme Bearer."""
    found = []
    for name in CREDENTIAL_FIELDS:
        value = fields.get(name)
        if not value:
            continue
        if name == b"authorization":
            if value[: len(BEARER)].lower() != BEARER:
                continue
            value = value[len(BEARER) :].strip(b" \t")
        if value:
            found.append((name, value))
    return found


def identify(
    keys: Mapping[bytes, Key], credentials: Sequence[Credential], wall_s: float
) -> tuple[Key | None, Code | None]:
    """The gateway key among the credentials, and why it may not be used; `wall_s` is Unix time.

    The key is given as well where a known one is refused, so that the log can name it.
    """
    found: Key | None = None
    for _, value in credentials:
        key = keys.get(sha256(value).digest())
        if key is None:
            continue
        if found is not None and found.name != key.name:
            return None, Code.AMBIGUOUS_API_KEY
        found = key
    if found is None:
        return None, Code.INVALID_API_KEY if credentials else Code.MISSING_API_KEY
    if found.revoked:
        return found, Code.INVALID_API_KEY
    if wall_s >= found.expires_at:
        return found, Code.EXPIRED_API_KEY
    return found, None


def gateway_fields(keys: Mapping[bytes, Key], fields: Mapping[bytes, bytes]) -> frozenset[bytes]:
    """The credential fields that must never go upstream, not even where the client's own pass:
    those with a gateway key, known, expired or revoked, or with a value that looks like one,
    whatever stands before or behind it."""
    return frozenset(
        [name for name in CREDENTIAL_FIELDS if name in fields and _is_ours(keys, fields[name])]
    )


def _is_ours(keys: Mapping[bytes, Key], field: bytes) -> bool:
    """By the whole value, by what follows a scheme (which `identify` may know), or by a word: a
    client that says `Bearer Bearer KEY` is not let in, but has sent the key."""
    for value in {field.strip(), *map(bytes.strip, field.split(None, 1)[1:]), *field.split()}:
        if value.startswith(OWN_KEY_PREFIX) or sha256(value).digest() in keys:
            return True
    return False
