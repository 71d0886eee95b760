"""The gate: refuses what two parsers could read differently, in one table.

h11 is lenient where a proxy must not be: it accepts Content-Length with Transfer-Encoding,
Transfer-Encoding in HTTP/1.0, bare LF, folded lines and control characters, and it merges equal
Content-Lengths.  Each rule below closes one such door; `REQUEST_RULES` and `ANSWER_RULES` name
them all, and `tests/test_wire_rules_switched_off.py` shows what would come in at each.  A rule
looks at values and returns nothing: it raises `HeadError`, which the proxy answers with 400 (from a
client) or 502 (from an upstream), and closes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

Field = tuple[bytes, bytes, bytes]


class HeadError(Exception):
    """A head that the gateway refuses; the text says why, in words fit for the one who sent it."""


# ---- what a request's bytes may not contain ------------------------------------------------------

# Control characters but for tab, a CR or LF on its own, and obsolete line folding
# (RFC 9112, 2.2 and 5.2; RFC 9110, 5.5).
FORBIDDEN_OCTETS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\r\n[ \t]")
CONTROL_OCTETS = bytes({*range(0x20), 0x7F} - {ord("\t")})


def has_forbidden_octets(head: bytes) -> bool:
    """Does `FORBIDDEN_OCTETS` match anywhere?

    The same, asked of bytes' own methods: a seventh of the instructions.  There are no other
    control characters, and no CR or LF on its own, where all of them together are twice as many as
    the line ends.
    """
    controls = len(head) - len(head.translate(None, CONTROL_OCTETS))
    return controls != 2 * head.count(b"\r\n") or b"\r\n " in head or b"\r\n\t" in head


def _name_octet(octets: bytes) -> str:
    if octets == b"\n":
        return "a line ends with a bare LF"
    if octets == b"\r":
        return "a bare CR stands in the head"
    if octets.startswith(b"\r\n"):
        return "a header line is folded"
    return "a control character stands in the head"


# ---- rules on a request as h11 read it -----------------------------------------------------------

# `Host` names no credential and is replaced, but its syntax is part of the message (RFC 9112, 3.2;
# RFC 3986, 3.2.2 and 3.2.3): a name or a literal in brackets, and a port of digits.
HOST_AND_PORT = rb"(?:\[[0-9A-Za-z!$%&'()*+,\-.:;=_~]+\]|[0-9A-Za-z!$%&'()*+,\-.;=_~]*)(?::[0-9]*)?"
HOST = re.compile(HOST_AND_PORT)
ABSOLUTE_FORM = re.compile(rb"https?://(?=[^:/?])" + HOST_AND_PORT + rb"(?=[/?]|$)", re.IGNORECASE)
# In capitals: some servers do not tell a method in small letters from them.
METHODS_REFUSED = {
    b"CONNECT": "CONNECT is not served",
    # An upstream would echo the credential that the gateway put in; Microsoft's call it TRACK.
    b"TRACE": "TRACE is not served",
    b"TRACK": "TRACK is not served",
}
CREDENTIAL_FIELDS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"})
SINGLE_FIELDS = CREDENTIAL_FIELDS | {
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"x-user-id",
    b"x-app-id",
    b"origin",
}
# By whom, for whom and from which target a request was handed on, and who a proxy has found the
# client to be: the gateway's word, not the client's.  Some frameworks take the targets for the
# path, past the route that was checked, and some applications log in whom `x-forwarded-user` names.
FORWARDING_FIELDS = frozenset(
    {
        b"cf-connecting-ip",
        b"cf-connecting-ipv6",
        b"client-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"forwarded",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-envoy-external-address",
        b"x-forwarded",
        b"x-host",
        b"x-original-forwarded-for",
        b"x-original-host",
        b"x-original-uri",
        b"x-original-url",
        b"x-real-ip",
        b"x-rewrite-url",
    }
)
FORWARDING_PREFIX = b"x-forwarded-"
# Fields that decide something here or upstream.  The same name with another sign for the dash, an
# underscore mostly, is a disguise: CGI-like servers cannot tell it from the real one (RFC 3875,
# 4.1.18; some take every sign for an underscore).
DECISIVE_FIELDS = (
    SINGLE_FIELDS
    | FORWARDING_FIELDS
    | {b"connection", b"upgrade", b"te", b"trailer", b"keep-alive"}
)
PLAIN_OCTETS = b"abcdefghijklmnopqrstuvwxyz0123456789-"
SIGNS = b"!#$%&'*+.^_`|~"
SIGNS_TO_DASHES = bytes.maketrans(SIGNS, b"-" * len(SIGNS))
# 18 digits stay below 2**63; `int()` alone would also accept "+5", "5_0" and other digits.
DIGITS = re.compile(rb"[0-9]{1,18}")
LENGTH_LINES = re.compile(rb"\r\ncontent-length:([^\r]*)", re.IGNORECASE)


class Asked(NamedTuple):
    """A request's head as it was sent (`raw`) and as h11 read it, which mends and merges.  `known`
    has the last value of each field by its name: the rules look there, which costs the same for any
    number of fields, and walk over `fields` only where something is suspicious."""

    raw: bytes
    method: bytes
    target: bytes
    version: bytes
    fields: list[Field]
    known: dict[bytes, bytes]


def _octets(asked: Asked) -> None:
    if has_forbidden_octets(asked.raw):
        found = FORBIDDEN_OCTETS.search(asked.raw)
        raise HeadError(_name_octet(found.group() if found else b""))


def _version(asked: Asked) -> None:
    if asked.version not in (b"1.0", b"1.1"):
        raise HeadError("the HTTP version is neither 1.0 nor 1.1")


def _method(asked: Asked) -> None:
    method = asked.method.upper()
    if method in METHODS_REFUSED:
        raise HeadError(METHODS_REFUSED[method])


def _target(asked: Asked) -> None:
    target = asked.target
    if b"#" in target:
        raise HeadError("the request target has a fragment")
    if target[:1] == b"/" or ABSOLUTE_FORM.match(target):
        return
    if target == b"*" and asked.method == b"OPTIONS":
        return
    raise HeadError("the request target is neither a path nor an absolute URL")


def _repeated(asked: Asked) -> None:
    if len(asked.known) == len(asked.fields):
        return
    seen = set()
    for name, _, _ in asked.fields:
        if name in SINGLE_FIELDS:
            if name in seen:
                raise HeadError(f"{name.decode()} is repeated")
            seen.add(name)


def _disguised(asked: Asked) -> None:
    if not b"".join(asked.known).translate(None, PLAIN_OCTETS):
        return
    for name in asked.known:
        undisguised = name.translate(SIGNS_TO_DASHES)
        if undisguised != name and _decides(undisguised):
            raise HeadError(f"{name.decode()} is {undisguised.decode()} in disguise")


def _decides(name: bytes) -> bool:
    return name in DECISIVE_FIELDS or name.startswith(FORWARDING_PREFIX)


def _host(asked: Asked) -> None:
    if not HOST.fullmatch(asked.known.get(b"host", b"")):
        raise HeadError("Host is malformed")


def _one_length(asked: Asked) -> None:
    """h11 makes one of lines that are equal, and of the members of a list."""
    if b"content-length" in asked.known:
        lengths = LENGTH_LINES.findall(asked.raw)
        if len(lengths) != 1 or b"," in lengths[0]:
            raise HeadError("Content-Length is repeated")


def _length(asked: Asked) -> None:
    if not DIGITS.fullmatch(asked.known.get(b"content-length", b"0")):
        raise HeadError("Content-Length is not a plain number")


def _one_framing(asked: Asked) -> None:
    if b"transfer-encoding" in asked.known and b"content-length" in asked.known:
        raise HeadError("both Content-Length and Transfer-Encoding")


def _chunks(asked: Asked) -> None:
    if b"transfer-encoding" in asked.known and asked.version == b"1.0":
        raise HeadError("Transfer-Encoding in HTTP/1.0")


REQUEST_RULES: dict[str, Callable[[Asked], None]] = {
    "octets": _octets,
    "version": _version,
    "method": _method,
    "target": _target,
    "repeated": _repeated,
    "disguised": _disguised,
    "host": _host,
    "one_length": _one_length,
    "length": _length,
    "one_framing": _one_framing,
    "chunks": _chunks,
}


def check_request(asked: Asked) -> None:
    """Raises `HeadError` where a rule of `REQUEST_RULES` refuses."""
    for rule in REQUEST_RULES.values():
        rule(asked)


# ---- rules on an upstream's answer ---------------------------------------------------------------


class Answered(NamedTuple):
    """An answer's head as h11 read it, which has let through at most one Content-Length."""

    status: int
    version: bytes
    reason: bytes
    fields: list[Field]
    known: dict[bytes, bytes]


def _answer_version(answered: Answered) -> None:
    if answered.version not in (b"1.0", b"1.1"):
        raise HeadError("the answer's HTTP version is neither 1.0 nor 1.1")


def _answer_status(answered: Answered) -> None:
    if not 100 <= answered.status <= 599:
        raise HeadError("the answer's status is out of range")


def _answer_one_framing(answered: Answered) -> None:
    if b"transfer-encoding" in answered.known and b"content-length" in answered.known:
        raise HeadError("the answer has both Content-Length and Transfer-Encoding")


def _answer_chunks(answered: Answered) -> None:
    if b"transfer-encoding" in answered.known and answered.version == b"1.0":
        raise HeadError("the answer has Transfer-Encoding in HTTP/1.0")


def _answer_length(answered: Answered) -> None:
    if not DIGITS.fullmatch(answered.known.get(b"content-length", b"0")):
        raise HeadError("the answer's Content-Length is out of range")


def _answer_octets(answered: Answered) -> None:
    """RFC 9110, 5.5.  h11 refuses NUL, CR and LF; of the others it lets through what cookies were
    once seen with.  A client may stop at any of them, and a terminal obeys some."""
    text = b"".join([answered.reason, *[value for _, _, value in answered.fields]])
    if len(text.translate(None, CONTROL_OCTETS)) != len(text):
        raise HeadError("a control character stands in the answer's head")


ANSWER_RULES: dict[str, Callable[[Answered], None]] = {
    "version": _answer_version,
    "status": _answer_status,
    "one_framing": _answer_one_framing,
    "chunks": _answer_chunks,
    "length": _answer_length,
    "octets": _answer_octets,
}


def check_answer(answered: Answered) -> None:
    """Raises `HeadError` where a rule of `ANSWER_RULES` refuses."""
    for rule in ANSWER_RULES.values():
        rule(answered)


def comma_list(values: list[bytes]) -> frozenset[bytes]:
    """The lower-case members of a list-valued field, over all its lines (RFC 9110, 5.6.1)."""
    return frozenset(
        member.strip(b" \t").lower()
        for value in values
        for member in value.split(b",")
        if member.strip(b" \t")
    )
