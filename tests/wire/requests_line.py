"""Request lines (RFC 9112, 2.2 and 3): methods, targets, versions, blanks, lengths, octets."""

from __future__ import annotations

from tests.wire.requests_case import (
    HEALTHY,
    HIDDEN,
    KEPT,
    KEY_LINE,
    PLAIN,
    Case,
    get,
    passes,
    post,
    refused,
    seen,
    seen_get,
    seen_post,
)


def line(octets: bytes, plain: bytes = PLAIN) -> bytes:
    """A request with this request line."""
    return get(line=octets, plain=plain)


WITHOUT_HOST = KEY_LINE + b"\r\n"
LONGEST_TARGET = b"/v1/" + b"a" * 3900

METHODS = [
    passes("GET", "9110 9.3.1", get(), seen_get()),
    passes("POST without a body", "9110 9.3.3", line(b"POST /v1/c HTTP/1.1"), seen(b"POST /v1/c")),
    passes("POST", "9110 9.3.3", post(b"hello"), seen_post(b"hello")),
    passes("PUT", "9110 9.3.4", line(b"PUT /v1/c HTTP/1.1"), seen(b"PUT /v1/c")),
    passes("DELETE", "9110 9.3.5", line(b"DELETE /v1/c HTTP/1.1"), seen(b"DELETE /v1/c")),
    passes("PATCH", "5789 2", line(b"PATCH /v1/c HTTP/1.1"), seen(b"PATCH /v1/c")),
    passes("OPTIONS", "9110 9.3.7", line(b"OPTIONS /v1/c HTTP/1.1"), seen(b"OPTIONS /v1/c")),
    passes("HEAD", "9110 9.3.2", line(b"HEAD /v1/m HTTP/1.1"), seen(b"HEAD /v1/m"))._replace(
        is_head=True
    ),
    passes(
        "a body on GET",
        "9110 9.3.1",
        get(b"Content-Length: %d" % len(HIDDEN)) + HIDDEN,
        seen(b"GET /v1/m", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    ),
    passes(
        "a body on HEAD",
        "9110 9.3.2",
        get(b"Content-Length: %d" % len(HIDDEN), line=b"HEAD /v1/m HTTP/1.1") + HIDDEN,
        seen(b"HEAD /v1/m", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    )._replace(is_head=True),
    passes("an unknown method", "9110 9.1", line(b"FROB /v1/m HTTP/1.1"), seen(b"FROB /v1/m")),
    passes(
        "a method of signs",
        "9110 5.6.2",
        line(b"!#$%&'*+-.^_`|~ /v1/m HTTP/1.1"),
        seen(b"!#$%&'*+-.^_`|~ /v1/m"),
    ),
    passes(
        "a method in small letters is another one",
        "9110 9.1",
        line(b"get /v1/m HTTP/1.1"),
        seen(b"get /v1/m"),
    ),
    refused("CONNECT to a host", "9110 9.3.6", line(b"CONNECT gw:443 HTTP/1.1")),
    refused("CONNECT to a path", "9110 9.3.6", line(b"CONNECT /v1/m HTTP/1.1")),
    refused("connect in small letters", "9110 9.3.6", line(b"connect /v1/m HTTP/1.1")),
    refused("TRACE would show the credential", "9110 9.3.8", line(b"TRACE /v1/m HTTP/1.1")),
    refused("Trace in other letters", "9110 9.3.8", line(b"Trace /v1/m HTTP/1.1")),
    refused("TRACK is TRACE to some", "9110 9.3.8", line(b"TRACK /v1/m HTTP/1.1")),
    refused("a method with a colon", "9110 5.6.2", line(b"GET: /v1/m HTTP/1.1")),
    refused("a method in brackets", "9110 5.6.2", line(b"(GET) /v1/m HTTP/1.1")),
    refused("a quoted method", "9110 5.6.2", line(b'"GET" /v1/m HTTP/1.1')),
    refused("an 8-bit method", "9110 5.6.2", line(b"G\xc3\x89T /v1/m HTTP/1.1")),
    refused("no method", "9112 3", line(b"/v1/m HTTP/1.1")),
    refused("an empty method", "9112 3", line(b" /v1/m HTTP/1.1")),
]

TARGETS = [
    passes("a query", "9112 3.2.1", line(b"GET /v1/m?a=b&c HTTP/1.1"), seen(b"GET /v1/m?a=b&c")),
    passes("an empty query", "9112 3.2.1", line(b"GET /v1/m? HTTP/1.1"), seen(b"GET /v1/m?")),
    passes(
        "a second question mark",
        "3986 3.4",
        line(b"GET /v1/m?a?b=/../c HTTP/1.1"),
        seen(b"GET /v1/m?a?b=/../c"),
    ),
    passes("the route itself", "9112 3.2.1", line(b"GET /v1 HTTP/1.1"), seen(b"GET /v1")),
    passes(
        "signs that some encode",
        "3986 2.2",
        line(b"GET /v1/a:b@c;d=e,f!$&'()*+~ HTTP/1.1"),
        seen(b"GET /v1/a:b@c;d=e,f!$&'()*+~"),
    ),
    passes(
        "signs that all should encode pass as they are",
        "3986 2",
        line(b'GET /v1/<a>|{b}^`" HTTP/1.1'),
        seen(b'GET /v1/<a>|{b}^`"'),
    ),
    passes(
        "an URL as a segment",
        "3986 3.3",
        line(b"GET /v1/m?u=http://other/v1 HTTP/1.1"),
        seen(b"GET /v1/m?u=http://other/v1"),
    ),
    passes(
        "the longest target",
        "9112 3",
        line(b"GET %b HTTP/1.1" % LONGEST_TARGET),
        seen(b"GET " + LONGEST_TARGET),
    ),
    refused(
        "a target that is too long",
        "9112 3",
        line(b"GET /v1/%b HTTP/1.1" % (b"a" * 4100)),
        "uri_too_long",
    ),
    refused(
        "a method that is too long",
        "9112 3",
        line(b"%b /v1/m HTTP/1.1" % (b"A" * 4100)),
        "uri_too_long",
    ),
    refused("a request line without end", "9112 3", b"GET /v1/" + b"a" * 5000, "uri_too_long"),
    refused("a fragment", "9112 3.2", line(b"GET /v1/m#part HTTP/1.1")),
    refused("a fragment behind a query", "9112 3.2", line(b"GET /v1/m?a#part HTTP/1.1")),
    refused("an 8-bit target", "9112 3.2", line(b"GET /v1/\xc3\xa9 HTTP/1.1")),
    refused("a blank in the target", "9112 3.2", line(b"GET /v1/a b HTTP/1.1")),
    refused("a target without a slash", "9112 3.2.1", line(b"GET v1/m HTTP/1.1")),
    refused("a target that is a query", "9112 3.2.1", line(b"GET ?a=b HTTP/1.1")),
    refused("a relative target", "9112 3.2.1", line(b"GET ../v1/m HTTP/1.1")),
    refused("a backslash for a slash", "9112 3.2.1", line(b"GET \\v1\\m HTTP/1.1")),
    refused(
        "a request hidden in the target",
        "9112 3.2",
        line(b"GET /v1/m HTTP/1.1\rHost: a\r\rGET /v1/hidden HTTP/1.1"),
    ),
]

ABSOLUTE = [
    passes("absolute-form", "9112 3.2.2", line(b"GET http://gw/v1/m HTTP/1.1"), seen_get()),
    passes("https", "9112 3.2.2", line(b"GET https://gw:443/v1/m HTTP/1.1"), seen_get()),
    passes("a scheme in capitals", "3986 3.1", line(b"GET HTTP://gw/v1/m HTTP/1.1"), seen_get()),
    passes(
        "another host than Host", "9112 3.2.2", line(b"GET http://other/v1/m HTTP/1.1"), seen_get()
    ),
    passes("an IPv6 host", "3986 3.2.2", line(b"GET http://[::1]:80/v1/m HTTP/1.1"), seen_get()),
    passes(
        "absolute-form with a query",
        "9112 3.2.2",
        line(b"GET http://gw/v1/m?a=//b@c HTTP/1.1"),
        seen(b"GET /v1/m?a=//b@c"),
    ),
    refused(
        "absolute-form without a path",
        "9112 3.2.1",
        line(b"GET http://gw HTTP/1.1"),
        "unknown_url",
        KEPT,
    ),
    refused(
        "absolute-form with a query alone",
        "9112 3.2.1",
        line(b"GET http://gw?/v1/m HTTP/1.1"),
        "unknown_url",
        KEPT,
    ),
    refused(
        "a route as the host",
        "9112 3.2.2",
        line(b"GET http://v1/m HTTP/1.1"),
        "unknown_url",
        KEPT,
    ),
    refused("userinfo", "9110 4.2.4", line(b"GET http://user@gw/v1/m HTTP/1.1")),
    refused("a key as userinfo", "9110 4.2.4", line(b"GET http://:key-of-user1@gw/v1/m HTTP/1.1")),
    refused("no host", "9110 4.2.1", line(b"GET http:///v1/m HTTP/1.1")),
    refused("a port without a host", "9110 4.2.1", line(b"GET http://:80/v1/m HTTP/1.1")),
    refused("a port that is no number", "3986 3.2.3", line(b"GET http://gw:x/v1/m HTTP/1.1")),
    refused("a backslash in the host", "3986 3.2.2", line(b"GET http://gw\\/v1/m HTTP/1.1")),
    refused("one slash", "3986 3", line(b"GET http:/v1/m HTTP/1.1")),
    refused("another scheme", "9112 3.2.2", line(b"GET ftp://gw/v1/m HTTP/1.1")),
    refused("a file", "9112 3.2.2", line(b"GET file:///v1/m HTTP/1.1")),
    refused(
        "absolute-form without Host", "9112 3.2", line(b"GET http://gw/v1/m HTTP/1.1", WITHOUT_HOST)
    ),
    refused(
        "two Hosts beside absolute-form",
        "9112 3.2.2",
        get(b"Host: gw", line=b"GET http://gw/v1/m HTTP/1.1"),
    ),
    refused("authority-form for GET", "9112 3.2.3", line(b"GET gw:80 HTTP/1.1")),
    refused("asterisk-form for GET", "9112 3.2.4", line(b"GET * HTTP/1.1")),
    refused("asterisk-form in front of a path", "9112 3.2.4", line(b"OPTIONS */v1/m HTTP/1.1")),
    refused(
        "asterisk-form for OPTIONS has no route",
        "9112 3.2.4",
        line(b"OPTIONS * HTTP/1.1"),
        "unknown_url",
        KEPT,
    ),
]

VERSIONS = [
    passes("HTTP/1.0", "9112 2.3", line(b"GET /v1/m HTTP/1.0"), seen_get(), ends="closed"),
    passes(
        "HTTP/1.0 without Host",
        "9112 3.2",
        line(b"GET /v1/m HTTP/1.0", WITHOUT_HOST),
        seen_get(),
        ends="closed",
    ),
    passes(
        "HTTP/1.0 that stays",
        "9112 9.3",
        get(b"Connection: Keep-Alive", line=b"GET /v1/m HTTP/1.0") * 2,
        seen_get(),
        seen_get(),
    ),
    passes(
        "HTTP/1.0 with a body",
        "9112 6.3",
        post(b"hello", line=b"POST /v1/c HTTP/1.0"),
        seen_post(b"hello"),
        ends="closed",
    ),
    refused("HTTP/0.9", "9112 2.3", line(b"GET /v1/m")),
    refused("HTTP/0.9 by name", "9112 2.3", line(b"GET /v1/m HTTP/0.9")),
    refused("HTTP/1.2", "9112 2.3", line(b"GET /v1/m HTTP/1.2")),
    refused("HTTP/1.9", "9112 2.3", line(b"GET /v1/m HTTP/1.9")),
    refused("HTTP/2.0", "9112 2.3", line(b"GET /v1/m HTTP/2.0")),
    refused("HTTP/2", "9112 2.3", line(b"GET /v1/m HTTP/2")),
    refused("HTTP/1.10", "9112 2.3", line(b"GET /v1/m HTTP/1.10")),
    refused("HTTP/01.1", "9112 2.3", line(b"GET /v1/m HTTP/01.1")),
    refused("HTTP/1.", "9112 2.3", line(b"GET /v1/m HTTP/1.")),
    refused("HTTP/1,1", "9112 2.3", line(b"GET /v1/m HTTP/1,1")),
    refused("HTTP/1 .1", "9112 2.3", line(b"GET /v1/m HTTP/1 .1")),
    refused("http/1.1", "9112 2.3", line(b"GET /v1/m http/1.1")),
    refused("HTTPS/1.1", "9112 2.3", line(b"GET /v1/m HTTPS/1.1")),
    refused("ICY/1.1", "9112 2.3", line(b"GET /v1/m ICY/1.1")),
    refused("a version twice", "9112 3", line(b"GET /v1/m HTTP/1.1 HTTP/1.1")),
    refused("other digits", "9112 2.3", line(b"GET /v1/m HTTP/1.\xd9\xa1")),
    refused("the preface of HTTP/2", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    refused("a TLS greeting", "8446 4.1.2", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"),
    refused("another protocol", "9112 3", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    refused(
        "a PROXY header that nobody asked for",
        "PROXY 2.1",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + get(),
    ),
]

BLANKS = [
    refused("two blanks behind the method", "9112 3", line(b"GET  /v1/m HTTP/1.1")),
    refused("two blanks behind the target", "9112 3", line(b"GET /v1/m  HTTP/1.1")),
    refused("a blank at the end", "9112 3", line(b"GET /v1/m HTTP/1.1 ")),
    refused("a blank at the start", "9112 3", line(b" GET /v1/m HTTP/1.1")),
    refused("a tab for a blank", "9112 3", line(b"GET\t/v1/m HTTP/1.1")),
    refused("a tab behind the target", "9112 3", line(b"GET /v1/m\tHTTP/1.1")),
    refused("a tab at the end", "9112 3", line(b"GET /v1/m HTTP/1.1\t")),
    refused("a vertical tab", "9112 3", line(b"GET\x0b/v1/m HTTP/1.1")),
    refused("a form feed", "9112 3", line(b"GET /v1/m\x0cHTTP/1.1")),
    refused("a no-break space", "9112 3", line(b"GET\xa0/v1/m HTTP/1.1")),
    refused("no blank", "9112 3", line(b"GET/v1/mHTTP/1.1")),
    passes("an empty line first", "9112 2.2", b"\r\n" + get(), seen_get()),
    passes("several empty lines first", "9112 2.2", b"\r\n\r\n\r\n" + get(), seen_get()),
    passes(
        "an empty line behind a body",
        "9112 2.2",
        post(b"hello") + b"\r\n" + get(),
        seen_post(b"hello"),
        seen_get(),
    ),
    passes("empty lines at the end", "9112 2.2", get() + b"\r\n\r\n", seen_get()),
    refused("a bare LF first", "9112 2.2", b"\n" + get()),
    refused("a bare CR first", "9112 2.2", b"\r" + get()),
    refused("a blank on the first empty line", "9112 2.2", b" \r\n" + get()),
]

OCTETS = [
    refused("NUL in the method", "9112 3", line(b"G\0ET /v1/m HTTP/1.1")),
    refused("NUL in the target", "9112 3", line(b"GET /v1/\0m HTTP/1.1")),
    refused("DEL in the target", "9112 3", line(b"GET /v1/\x7fm HTTP/1.1")),
    refused("ESC in the target", "9112 3", line(b"GET /v1/\x1b[31m HTTP/1.1")),
    refused("backspace in the target", "9112 3", line(b"GET /v1/m\x08 HTTP/1.1")),
    refused("NUL behind the version", "9112 3", line(b"GET /v1/m HTTP/1.1\0")),
    refused("a bare LF ends the line", "9112 2.2", b"GET /v1/m HTTP/1.1\n" + PLAIN + b"\r\n"),
    refused("a bare CR ends the line", "9112 2.2", b"GET /v1/m HTTP/1.1\r" + PLAIN + b"\r\n"),
    refused("CR CR LF ends the line", "9112 2.2", b"GET /v1/m HTTP/1.1\r\r\n" + PLAIN + b"\r\n"),
    refused("LF CR ends the line", "9112 2.2", b"GET /v1/m HTTP/1.1\n\r" + PLAIN + b"\r\n"),
    refused("bare LFs throughout", "9112 2.2", get().replace(b"\r\n", b"\n")),
    refused("a bare LF in the target", "9112 3", line(b"GET /v1/\nm HTTP/1.1")),
    refused("nothing but NULs", "9112 3", b"\0" * 40),
]

ENDS = [
    refused("an end in the method", "9112 8", b"GE")._replace(hangs_up=True),
    refused("an end in the target", "9112 8", b"GET /v1/m")._replace(hangs_up=True),
    refused("an end in the head", "9112 8", get()[:-2])._replace(hangs_up=True),
    refused("an end before the last LF", "9112 8", get()[:-1])._replace(hangs_up=True),
    Case("an end after an empty line", "9112 2.2", b"\r\n", (), hangs_up=True),
    Case("nothing at all", "9112 9", b"", (), hangs_up=True),
    Case(
        "health needs no key",
        "own",
        get(line=b"GET /health HTTP/1.1", plain=b"Host: gw\r\n"),
        (HEALTHY,),
    ),
    Case(
        "a body on health is no request",
        "9112 9.3.2",
        get(b"Content-Length: %d" % len(HIDDEN), line=b"GET /health HTTP/1.1") + HIDDEN,
        (HEALTHY,),
        ends="kept or closed",
    ),
]

GROUPS = {
    "method": METHODS,
    "target": TARGETS,
    "absolute": ABSOLUTE,
    "version": VERSIONS,
    "blank": BLANKS,
    "octet": OCTETS,
    "end": ENDS,
}
