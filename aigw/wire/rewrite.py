"""The head for the other side, written from what was parsed.

End-to-end fields pass in order and with their spelling; what does not pass is in the tables below.
A `Connection` field that names one of the fields that decide something cannot switch a rule off:
those are dealt with by the tables before the names in `Connection` are looked at.
"""

from __future__ import annotations

from aigw.wire.gate import CREDENTIAL_FIELDS
from aigw.wire.head import AnswerHead, RequestHead

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
REQUEST_WITHHELD = HOP_BY_HOP | {
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"trailer",
    b"via",
    b"x-app-id",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-forwarded-scheme",
    b"x-forwarded-server",
    b"x-forwarded-ssl",
    b"x-original-forwarded-for",
    b"x-real-ip",
    b"x-user-id",
}
ANSWER_WITHHELD = HOP_BY_HOP
OWN_PREFIX = b"x-aigw-"
# Fields that `Connection` may not remove (RFC 9110, 7.6.1 forbids naming end-to-end fields).
NOT_REMOVABLE = frozenset({b"content-length", b"content-encoding", b"content-type"})


def request_head(
    head: RequestHead,
    target: bytes,
    host: bytes,
    credential_lines: bytes,
    withheld_credentials: frozenset[bytes],
) -> bytes:
    """The head that goes upstream: `target` and `host` are the upstream's.

    `withheld_credentials` names the client's credential fields that must not pass;
    `credential_lines` are the gateway's own, complete with CRLF, or empty.
    """
    dropped = head.connection_options - NOT_REMOVABLE - CREDENTIAL_FIELDS
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, target, host)]
    for name, raw, value in head.fields:
        if name in REQUEST_WITHHELD or name in withheld_credentials:
            continue
        if name in dropped or name.startswith(OWN_PREFIX):
            continue
        lines.append(b"%b: %b\r\n" % (raw, value))
    if head.is_chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    lines.append(credential_lines)
    lines.append(b"\r\n")
    return b"".join(lines)


def answer_head(head: AnswerHead, own_lines: bytes, withheld: frozenset[bytes]) -> bytes:
    """The head that goes to the client; `own_lines` are the gateway's, complete with CRLF.

    `withheld` names further fields that the gateway's own lines replace.
    """
    dropped = head.connection_options - NOT_REMOVABLE
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    lines += [
        b"%b: %b\r\n" % (raw, value)
        for name, raw, value in head.fields
        if name not in ANSWER_WITHHELD
        and name not in withheld
        and name not in dropped
        and not name.startswith(OWN_PREFIX)
    ]
    lines.append(own_lines)
    lines.append(b"\r\n")
    return b"".join(lines)


def interim_head(head: AnswerHead) -> bytes:
    """An interim answer (1xx) for an HTTP/1.1 client."""
    return answer_head(head, b"", frozenset({b"content-length"}))
