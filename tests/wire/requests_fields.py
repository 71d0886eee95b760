"""Header fields (RFC 9110, 5; RFC 9112, 5): names, values, lines, repetitions, disguises."""

from __future__ import annotations

from tests.wire.requests_case import (
    KEPT,
    KEY_LINE,
    PLAIN,
    Case,
    get,
    passes,
    refused,
    seen,
    seen_get,
)

HOST_LINE = b"Host: gw\r\n"


def hosted(host: bytes) -> bytes:
    """A request with this line for its Host."""
    return get(plain=host + b"\r\n" + KEY_LINE + b"\r\n")


def keyed(*lines: bytes, line: bytes = b"GET /v1/m HTTP/1.1") -> bytes:
    """A request with these lines for its key."""
    return get(*lines, line=line, plain=HOST_LINE)


def same(name: str, section: str, line: bytes) -> Case:
    """A field that passes as it was sent."""
    return passes(name, section, get(line), seen_get(line))


def dropped(name: str, section: str, *lines: bytes) -> Case:
    """Fields that do not pass, of a request that does."""
    return passes(name, section, get(*lines), seen_get())


NAMES = [
    same("spelling is kept", "9110 5.1", b"aNtHrOpIc-bEtA: a,b"),
    same("signs in a name", "9110 5.6.2", b"!#$%&'*+-.^`|~: a"),
    same("digits first", "9110 5.6.2", b"0-a: b"),
    same("an underscore", "9110 5.6.2", b"session_id: 1"),
    same("a name of one letter", "9110 5.6.2", b"x: y"),
    same("a long name", "9110 5.6.2", b"x" * 2000 + b": y"),
    refused("a blank before the colon", "9112 5.1", get(b"X-A : b")),
    refused("a tab before the colon", "9112 5.1", get(b"X-A\t: b")),
    refused("a blank before the colon of Host", "9112 5.1", hosted(b"Host : gw")),
    refused("a blank in a name", "9110 5.6.2", get(b"X A: b")),
    refused("an empty name", "9110 5.6.2", get(b": b")),
    refused("no colon", "9112 5", get(b"X-A")),
    refused("a slash in a name", "9110 5.6.2", get(b"X/A: b")),
    refused("a bracket in a name", "9110 5.6.2", get(b"X(A): b")),
    refused("a quoted name", "9110 5.6.2", get(b'"X-A": b')),
    refused("an at sign in a name", "9110 5.6.2", get(b"X@A: b")),
    refused("an 8-bit name", "9110 5.6.2", get(b"X-\xc3\xa9: b")),
    refused("a no-break space at a name", "9110 5.6.2", get(b"Content-Length\xa0: 5") + b"hello"),
    refused("NUL in a name", "9110 5.6.2", get(b"X-\0A: b")),
    refused("a pseudo-header", "9113 8.3", get(b":path: /v1/closed")),
    refused("a request line as a field", "9112 5", get(b"GET /v1/hidden HTTP/1.1")),
]

VALUES = [
    same("8-bit octets", "9110 5.5", b"X-A: \xc3\xa9\xff\x80"),
    same("a tab inside", "9110 5.5", b"X-A: a\tb"),
    same("blanks inside", "9110 5.5", b"X-A: a   b"),
    same("quotes and commas", "9110 5.6.4", b'X-A: "a, b\\"", c;d="e"'),
    same("a colon", "9110 5.5", b"X-A: a:b: c"),
    passes("no blank behind the colon", "9112 5.1", get(b"X-A:b"), seen_get(b"X-A: b")),
    passes("blanks around", "9112 5.1", get(b"X-A: \t  b \t "), seen_get(b"X-A: b")),
    passes("an empty value", "9110 5.5", get(b"X-A:"), seen_get(b"X-A: ")),
    passes("a value of blanks", "9110 5.5", get(b"X-A:  \t"), seen_get(b"X-A: ")),
    same("per cent signs", "9110 5.5", b"X-A: 100%s %b %(a)s %"),
    same("a request line as a value", "9110 5.5", b"X-A: GET /v1/hidden HTTP/1.1"),
    *(
        refused(f"control character {octet:#04x}", "9110 5.5", get(b"X-A: a%cb" % octet))
        for octet in (0x00, 0x01, 0x08, 0x0B, 0x0C, 0x0E, 0x1B, 0x1F, 0x7F)
    ),
    refused("a control character at the edge", "9110 5.5", get(b"X-A: a\x0b")),
    refused("NUL at the end of a length", "9110 5.5", get(b"Content-Length: 5\0") + b"hello"),
]

LINES = [
    refused("a folded line", "9112 5.2", get(b"X-A: b\r\n c")),
    refused("a line folded by a tab", "9112 5.2", get(b"X-A: b\r\n\tc")),
    refused("a folded empty value", "9112 5.2", get(b"X-A:\r\n b")),
    refused("the first line folded", "9112 5.2", get(plain=b" " + PLAIN)),
    refused("a folded request line", "9112 5.2", get(line=b"GET /v1/m\r\n HTTP/1.1")),
    refused("a length folded in", "9112 5.2", get(b"X-A: b\r\n Content-Length: 5") + b"hello"),
    refused(
        "a folded Transfer-Encoding",
        "9112 5.2",
        get(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n",
    ),
    refused("a folded line of blanks", "9112 5.2", get(b"X-A: b\r\n  ")),
    refused("a bare CR in a value", "9112 2.2", get(b"X-A: b\rX-B: c")),
    refused("a bare LF in a value", "9112 2.2", get(b"X-A: b\nX-B: c")),
    refused("a bare LF before the blank line", "9112 2.2", get()[:-4] + b"\n\r\n"),
    refused("a bare LF for the blank line", "9112 2.2", get()[:-2] + b"\n"),
    refused("CR CR LF behind a field", "9112 2.2", get(b"X-A: b\r")),
    refused("a request behind two bare LFs", "9112 2.2", get(b"X-A: b\n\nGET /v1/hidden HTTP/1.1")),
    refused("a request behind two bare CRs", "9112 2.2", get(b"X-A: b\r\rGET /v1/hidden HTTP/1.1")),
    refused("a bare CR before a length", "9112 2.2", get(b"X-A: b\rContent-Length: 5") + b"hello"),
    refused("NEL is no line end", "9112 5", get(b"X-A\x85Content-Length: 5") + b"hello"),
    same("a line end of Unicode is none", "9112 2.2", b"X-A: b\xe2\x80\xa8Content-Length: 5"),
]

SIZES = [
    passes(
        "as many fields as are allowed",
        "6585 5",
        get(*(b"X-%d: a" % number for number in range(38))),
        seen_get(*(b"X-%d: a" % number for number in range(38))),
    ),
    refused(
        "one field too many",
        "6585 5",
        get(*(b"X-%d: a" % number for number in range(39))),
        "headers_too_large",
    ),
    refused("many fields of one name", "6585 5", get(*[b"X-A: b"] * 60), "headers_too_large"),
    same("a long value", "6585 5", b"X-A: " + b"b" * 3900),
    refused("a value that is too long", "6585 5", get(b"X-A: " + b"b" * 4100), "headers_too_large"),
    refused("a name that is too long", "6585 5", get(b"x" * 4100 + b": a"), "headers_too_large"),
    refused("a head without end", "6585 5", get()[:-2] + b"X-A: b\r\n" * 600, "headers_too_large"),
]

HOSTS = [
    passes("another Host", "9112 3.2", hosted(b"Host: other:8080"), seen_get()),
    passes("HOST in capitals", "9110 5.1", hosted(b"HOST: gw"), seen_get()),
    passes("an IPv6 Host", "3986 3.2.2", hosted(b"Host: [::1]:8080"), seen_get()),
    passes("an empty Host", "9112 3.2", hosted(b"Host:"), seen_get()),
    passes("a Host with an encoded octet", "3986 3.2.2", hosted(b"Host: g%77"), seen_get()),
    passes("an empty port", "3986 3.2.3", hosted(b"Host: gw:"), seen_get()),
    refused("no Host", "9112 3.2", get(plain=KEY_LINE + b"\r\n")),
    refused("two Hosts", "9112 3.2", hosted(b"Host: gw\r\nHost: other")),
    refused("two equal Hosts", "9112 3.2", hosted(b"Host: gw\r\nhost: gw")),
    refused("Hosts apart", "9112 3.2", get(b"X-A: b", b"Host: other")),
    refused("a list of Hosts", "9112 3.2", hosted(b"Host: gw, other")),
    refused("a Host with a path", "9112 3.2", hosted(b"Host: gw/v1")),
    refused("a Host with userinfo", "9112 3.2", hosted(b"Host: user@gw")),
    refused("a Host with a scheme", "9112 3.2", hosted(b"Host: http://gw")),
    refused("a Host with a query", "9112 3.2", hosted(b"Host: gw?a")),
    refused("a Host with a fragment", "9112 3.2", hosted(b"Host: gw#a")),
    refused("a Host with a blank", "9112 3.2", hosted(b"Host: gw other")),
    refused("a Host with a backslash", "9112 3.2", hosted(b"Host: gw\\other")),
    refused("an 8-bit Host", "9112 3.2", hosted(b"Host: g\xc3\xbc")),
    refused("a Host with NUL", "9112 3.2", hosted(b"Host: gw\0other")),
    refused("a quoted Host", "9112 3.2", hosted(b'Host: "gw"')),
    refused("a port that is no number", "3986 3.2.3", hosted(b"Host: gw:80a")),
    refused("two ports", "3986 3.2.3", hosted(b"Host: gw:80:90")),
    refused("an open bracket", "3986 3.2.2", hosted(b"Host: [::1")),
    refused("octets behind a bracket", "3986 3.2.2", hosted(b"Host: [::1]other")),
    refused("an underscore for a Host", "9112 3.2", get(b"Ho_st: a", plain=KEY_LINE + b"\r\n")),
    dropped("X-Forwarded-Host names nobody", "7239 4", b"X-Forwarded-Host: other"),
]

KEYS = [
    passes("Bearer", "6750 2.1", keyed(b"Authorization: Bearer key-of-user1"), seen_get()),
    passes("bearer", "9110 11.1", keyed(b"Authorization: bearer key-of-user1"), seen_get()),
    passes(
        "Bearer and blanks",
        "9110 11.4",
        keyed(b"Authorization: Bearer   key-of-user1  "),
        seen_get(),
    ),
    passes("x-goog-api-key", "own", keyed(b"x-goog-api-key: key-of-user1"), seen_get()),
    passes("api-key", "own", keyed(b"api-key: key-of-user1"), seen_get()),
    passes("X-API-Key in capitals", "9110 5.1", keyed(b"X-API-KEY: key-of-user1"), seen_get()),
    passes("blanks around a key", "9112 5.1", keyed(b"X-API-Key: \tkey-of-user1\t "), seen_get()),
    passes(
        "a key twice, in two fields",
        "own",
        keyed(b"Authorization: Bearer key-of-user1", b"api-key: key-of-user1"),
        seen_get(),
    ),
    passes(
        "a stranger's credential beside the key",
        "own",
        keyed(b"Authorization: Bearer sk-stranger", b"api-key: key-of-user1"),
        seen_get(),
    ),
    passes(
        "a client's own credential goes to its own upstream",
        "own",
        keyed(b"Authorization: Bearer sk-client", KEY_LINE, line=b"GET /own/m HTTP/1.1"),
        seen(b"GET /own/m", b"Authorization: Bearer sk-client", credential=False),
    ),
    passes(
        "the key does not go to the client's own upstream",
        "own",
        keyed(
            b"Authorization: Bearer key-of-user1",
            b"x-api-key: sk-client",
            line=b"GET /own/m HTTP/1.1",
        ),
        seen(b"GET /own/m", b"x-api-key: sk-client", credential=False),
    ),
    passes(
        "a key behind another scheme goes nowhere",
        "own",
        keyed(b"Authorization: Token key-of-user1", KEY_LINE, line=b"GET /own/m HTTP/1.1"),
        seen(b"GET /own/m", credential=False),
    ),
    refused("no key", "9110 11.6.2", get(plain=HOST_LINE), "missing_api_key", KEPT),
    refused("an empty key", "9110 11.4", keyed(b"X-API-Key:"), "missing_api_key", KEPT),
    refused("an unknown key", "own", keyed(b"X-API-Key: key-of-nobody"), "invalid_api_key", KEPT),
    refused("a key with another end", "own", keyed(KEY_LINE + b"x"), "invalid_api_key", KEPT),
    refused("a part of a key", "own", keyed(KEY_LINE[:-1]), "invalid_api_key", KEPT),
    refused("a key in capitals", "own", keyed(b"X-API-Key: KEY-OF-USER1"), "invalid_api_key", KEPT),
    refused("an 8-bit key", "own", keyed(KEY_LINE + b"\xff"), "invalid_api_key", KEPT),
    refused("a list of keys", "own", keyed(KEY_LINE + b", key-of-user1"), "invalid_api_key", KEPT),
    refused("a long key", "own", keyed(b"X-API-Key: " + b"k" * 3000), "invalid_api_key", KEPT),
    refused(
        "no scheme", "6750 2.1", keyed(b"Authorization: key-of-user1"), "missing_api_key", KEPT
    ),
    refused(
        "Basic", "7617 2", keyed(b"Authorization: Basic a2V5LW9mLXVzZXIx"), "missing_api_key", KEPT
    ),
    refused(
        "a key in the query",
        "own",
        get(line=b"GET /v1/m?key=key-of-user1 HTTP/1.1", plain=HOST_LINE),
        "missing_api_key",
        KEPT,
    ),
    refused(
        "a key in a cookie",
        "own",
        keyed(b"Cookie: X-API-Key=key-of-user1"),
        "missing_api_key",
        KEPT,
    ),
    refused(
        "a key for the proxy",
        "9110 11.7.2",
        keyed(b"Proxy-Authorization: Bearer key-of-user1"),
        "missing_api_key",
        KEPT,
    ),
    refused(
        "two keys", "own", keyed(KEY_LINE, b"api-key: key-of-second"), "ambiguous_api_key", KEPT
    ),
    refused("X-API-Key twice", "own", keyed(KEY_LINE, b"X-API-Key: key-of-second")),
    refused("X-API-Key twice, equal", "own", keyed(KEY_LINE, KEY_LINE.lower())),
    refused(
        "Authorization twice",
        "9110 11.6.2",
        keyed(b"Authorization: Bearer sk-client", b"Authorization: Bearer key-of-user1"),
    ),
    refused("x-goog-api-key twice", "own", keyed(*[b"x-goog-api-key: key-of-user1"] * 2)),
    refused("api-key twice", "own", keyed(*[b"api-key: key-of-user1"] * 2)),
    refused(
        "a route that the key may not use",
        "own",
        get(line=b"GET /v1/closed/m HTTP/1.1"),
        "route_not_allowed",
        KEPT,
    ),
]

DISGUISES = [
    *(
        refused(f"{name.decode()} is a disguise", "3875 4.1.18", get(name + b": 5"))
        for name in (
            *(b"Content_Length", b"Transfer_Encoding", b"X_API_Key", b"x-api_key", b"X_Api-Key"),
            *(b"x_goog_api_key", b"api_key", b"X_User_Id", b"keep_alive"),
            *(b"Content.Length", b"Transfer.Encoding", b"X.API.Key", b"x+api+key", b"api~key"),
            *(b"X_Forwarded_For", b"X_Forwarded-Host", b"X.Real.IP", b"X-Forwarded_Proto"),
        )
    ),
    refused("two disguises", "3875 4.1.18", get(b"Content_Length: 5", b"content_length: 6")),
    refused(
        "a length beside its disguise",
        "3875 4.1.18",
        get(b"Content-Length: 5", b"Content_Length: 50") + b"hello",
    ),
    same("a name that begins like Content-Length", "9110 5.1", b"Content-Length-X: 5"),
    same("a name that ends like Content-Length", "9110 5.1", b"X-Content-Length: 5"),
    same("ContentLength", "9110 5.1", b"ContentLength: 5"),
    same("X-Transfer-Encoding", "9110 5.1", b"X-Transfer-Encoding: chunked"),
]

WITHHELD = [
    dropped("Cookie", "own", b"Cookie: a=b"),
    dropped(
        "forwarding fields",
        "7239 4",
        b"X-Forwarded-For: 1.2.3.4",
        b"Forwarded: for=1.2.3.4",
        b"X-Real-IP: 1.2.3.4",
        b"Via: 1.1 a",
        b"X-Forwarded-Proto: https",
    ),
    dropped(
        "the client's address, as other proxies name it",
        "own",
        b"X-Client-IP: 1.2.3.4",
        b"True-Client-IP: 1.2.3.4",
        b"X-Cluster-Client-IP: 1.2.3.4",
        b"CF-Connecting-IP: 1.2.3.4",
        b"X-Envoy-External-Address: 1.2.3.4",
    ),
    dropped(
        "who a proxy has found the client to be",
        "own",
        b"X-Forwarded-User: root",
        b"X-Forwarded-Email: root@example.com",
        b"X-Forwarded-Groups: admins",
        b"X-Forwarded-Client-Cert: Subject=root",
        b"X-Forwarded-Whatever-Comes: root",
    ),
    dropped(
        "another host or path in a forwarding field",
        "own",
        b"X-Forwarded: for=1.2.3.4",
        b"X-Original-Host: inside",
        b"X-Host: inside",
        b"X-Forwarded-Path: /closed",
        b"X-Forwarded-URI: /closed",
        b"X-Original-URI: /closed",
    ),
    refused("a forwarded user in disguise", "3875 4.1.18", get(b"X_Forwarded_User: root")),
    dropped("a cookie of the older kind", "2965 3.3.5", b"Cookie2: $Version=1"),
    dropped("another path", "own", b"X-Original-URL: /v1/closed", b"X-Rewrite-URL: /v1/closed"),
    dropped("attribution", "own", b"X-User-Id: a", b"X-App-Id: b"),
    dropped("our own fields", "own", b"x-aigw-error: a", b"X-Aigw-Cache: b"),
    dropped("Proxy, which CGI takes for a setting", "3875 4.1.18", b"Proxy: http://other:3128"),
    refused("X-User-Id twice", "own", get(b"X-User-Id: a", b"X-User-Id: b")),
    refused("X-User-Id with a blank", "own", get(b"X-User-Id: a b"), ends=KEPT),
    refused("X-App-Id that is too long", "own", get(b"X-App-Id: " + b"a" * 129), ends=KEPT),
    passes(
        "other fields may be repeated",
        "9110 5.3",
        get(b"X-A: b", b"x-a: c", b"X-A: b"),
        seen_get(b"X-A: b", b"x-a: c", b"X-A: b"),
    ),
    passes(
        "Accept twice",
        "9110 5.3",
        get(b"Accept: a/b", b"Accept: c/d"),
        seen_get(b"Accept: a/b", b"Accept: c/d"),
    ),
]

GROUPS = {
    "name": NAMES,
    "value": VALUES,
    "line": LINES,
    "size": SIZES,
    "host": HOSTS,
    "key": KEYS,
    "disguise": DISGUISES,
    "withheld": WITHHELD,
}
