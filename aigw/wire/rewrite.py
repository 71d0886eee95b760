"""The head for the other side, written from what was parsed.

End-to-end fields pass in order and with their spelling; what does not pass is in the tables below.
A `Connection` field that names one of the fields that decide something cannot switch a rule off:
those are dealt with by the tables before the names in `Connection` are looked at.
"""

from __future__ import annotations

from aigw.wire.gate import CREDENTIAL_FIELDS, FORWARDING_FIELDS, FORWARDING_PREFIX
from aigw.wire.head import AnswerHead, RequestHead
from aigw.wire.template import Shape

# RFC 9110, 7.6.1, and the older lists of RFC 2616, 13.5.1.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
# What the gateway settles itself, and what would tell an upstream about the client.
REQUEST_WITHHELD = (
    HOP_BY_HOP
    | FORWARDING_FIELDS
    | {
        b"cookie",
        b"cookie2",
        b"expect",
        b"host",
        b"proxy",  # CGI makes it HTTP_PROXY, which many programs take for their proxy's address
        b"trailer",
        b"x-app-id",
        b"x-user-id",
    }
)
ANSWER_WITHHELD = HOP_BY_HOP
OWN_PREFIX = b"x-aigw-"
# What else does not pass: whatever begins like this.
REQUEST_PREFIXES = (OWN_PREFIX, FORWARDING_PREFIX)
ANSWER_PREFIXES = (OWN_PREFIX,)
# Fields that `Connection` may not remove (RFC 9110, 7.6.1 forbids naming end-to-end fields).
NOT_REMOVABLE = CREDENTIAL_FIELDS | {b"content-length", b"content-encoding", b"content-type"}


# How a format begins whose start is open, and how all end: the gateway's lines, then none.
OPEN_START, OPEN_END = b"%b", b"%b\r\n"


def start_of_request(method: bytes, target: bytes, host: bytes) -> bytes:
    """The first two lines of a request for an upstream; `target` and `host` are the upstream's."""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, target, host)


def request_head(
    head: RequestHead, start: bytes, credential_lines: bytes, withheld_credentials: frozenset[bytes]
) -> bytes:
    """The head that goes upstream, after its `start`.

    `withheld_credentials` names the client's credential fields that must not pass;
    `credential_lines` are the gateway's own, complete with CRLF, or empty.
    """
    lines = [start, _passing(head, REQUEST_WITHHELD, REQUEST_PREFIXES, withheld_credentials)]
    if head.is_chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    lines.append(credential_lines)
    lines.append(b"\r\n")
    return b"".join(lines)


def request_format(
    head: RequestHead, shape: Shape, withheld_credentials: frozenset[bytes]
) -> bytes:
    """`request_head` as a format, for all heads of a shape.

    It takes the start, the shape's groups in order, and the credential lines.
    """
    table = REQUEST_WITHHELD | withheld_credentials
    passing = [_passes(name, head, table, REQUEST_PREFIXES) for name, _, _ in head.fields]
    return _format(OPEN_START, shape, passing)


def ready_format(request: bytes, start: bytes, credential_lines: bytes) -> bytes:
    """A `request_format` that takes the groups alone."""
    lines = request.removeprefix(OPEN_START).removesuffix(OPEN_END)
    return b"%b%b%b\r\n" % (_literal(start), lines, _literal(credential_lines))


def answer_head(head: AnswerHead, own_lines: bytes, withheld: frozenset[bytes]) -> bytes:
    """The head that goes to the client; `own_lines` are the gateway's, complete with CRLF.

    `withheld` names further fields that the gateway's own lines replace.
    """
    passing = _passing(head, ANSWER_WITHHELD, ANSWER_PREFIXES, withheld)
    return b"".join((status_line(head), passing, own_lines, b"\r\n"))


def answer_format(head: AnswerHead, shape: Shape, own: bytes = b"") -> bytes:
    """`answer_head` as a format: it takes the shape's groups in order, and the gateway's lines;
    before these what stands open in `own`, a format of the first of them."""
    passing = [_passes(name, head, ANSWER_WITHHELD, ANSWER_PREFIXES) for name, _, _ in head.fields]
    return _format(_literal(status_line(head)), shape, passing, own)


def status_line(head: AnswerHead) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)


def _passing(
    head: RequestHead | AnswerHead,
    table: frozenset[bytes],
    prefixes: tuple[bytes, ...],
    withheld: frozenset[bytes],
) -> bytes:
    """The lines of the fields that pass (`_passes`, for all names at once)."""
    known = head.known
    stay = table.intersection(known) | withheld.intersection(known)
    stay |= head.connection_options - NOT_REMOVABLE
    names = b"\n".join(known)
    for prefix in prefixes:
        if prefix in names:
            stay |= {name for name in known if name.startswith(prefix)}
    lines = [raw + b": " + value for name, raw, value in head.fields if name not in stay]
    lines.append(b"")  # so that each line ends with CRLF
    return b"\r\n".join(lines)


def _passes(
    name: bytes,
    head: RequestHead | AnswerHead,
    table: frozenset[bytes],
    prefixes: tuple[bytes, ...],
) -> bool:
    if name in table or name.startswith(prefixes):
        return False
    return name not in head.connection_options or name in NOT_REMOVABLE


def _format(start: bytes, shape: Shape, passing: list[bool], own: bytes = b"") -> bytes:
    """Lines that pass with `%b` for their group; of the others `%.0b` eats the group, and those
    that are runs of literal octets."""
    pieces = [start]
    is_taken = iter(shape.is_taken)
    for (literal, group), passes in zip(shape.lines, passing, strict=True):
        if group and next(is_taken):
            pieces.append(b"%.0b")
        if passes:
            pieces.append(_literal(literal) + (b"%b" if group else b"") + b"\r\n")
        elif group:
            pieces.append(b"%.0b")
    if next(is_taken):
        pieces.append(b"%.0b")
    pieces.append(own + OPEN_END)
    return b"".join(pieces)


def _literal(octets: bytes) -> bytes:
    return octets.replace(b"%", b"%%")


def interim_head(head: AnswerHead) -> bytes:
    """An interim answer (1xx) for an HTTP/1.1 client."""
    return answer_head(head, b"", frozenset({b"content-length"}))
