"""What the gate refuses and what it lets pass: one row a case, both ways through h11."""

from __future__ import annotations

import itertools

import pytest

from aigw.wire.gate import FORBIDDEN_OCTETS, has_forbidden_octets
from aigw.wire.head import AnswerReader, HeadError, read_request

REFUSED_REQUESTS = {
    "bare LF": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF at a field": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare CR in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
    "control character": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n",
    "DEL": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "folded first line": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "blank before colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "8-bit name": b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: b\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "Host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "Host with a blank": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "Host with two ports": b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n",
    "Host with a word for a port": b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "Host with an open bracket": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "Host with userinfo": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "equal lengths": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n"
    ),
    "length list": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
    "length +1": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
    "length -1": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "length 1_0": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n",
    "length 0x1": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
    "length 1.0": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\n",
    "length blank": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    "length huge": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
    "length in other digits": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa1\r\n\r\n",
    "length and chunked": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
    "chunked and length": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"
    ),
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "gzip, chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "identity": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "xchunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "chunked twice": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    ),
    "quoted chunked": b'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "chunked"\r\n\r\n',
    "chunked with VT": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "Transfer_Encoding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
    "Content_Length": b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
    "Content.Length": b"POST / HTTP/1.1\r\nHost: a\r\nContent.Length: 5\r\n\r\n",
    "X_Forwarded_For": b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: b\r\n\r\n",
    "X_API_Key": b"GET / HTTP/1.1\r\nHost: a\r\nX_API_Key: user1\r\n\r\n",
    "two Authorizations": (
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nauthorization: a\r\n\r\n"
    ),
    "two X-API-Keys": b"GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: a\r\nX-Api-Key: b\r\n\r\n",
    "two api-keys": b"GET / HTTP/1.1\r\nHost: a\r\napi-key: a\r\napi-key: b\r\n\r\n",
    "two x-goog-api-keys": (
        b"GET / HTTP/1.1\r\nHost: a\r\nx-goog-api-key: a\r\nx-goog-api-key: b\r\n\r\n"
    ),
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab in request line": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "blank at line end": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "8-bit target": b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "authority form": b"GET example.com:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk for GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute without host": b"GET http:///v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute with userinfo": b"GET http://u@a/v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "other scheme": b"GET ftp://a/v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "trace": b"trace / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACK": b"TRACK / HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute without host but a port": b"GET http://:1/v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute with two ports": b"GET http://a:1:2/v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "bad method": b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "nothing": b"\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED_REQUESTS)
def test_refused_requests(name: str) -> None:
    with pytest.raises(HeadError):
        read_request(REFUSED_REQUESTS[name])


# name -> head, method, target, body length (-1: chunked), kept alive
ACCEPTED_REQUESTS = {
    "plain": (b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", b"/a?b=c", 0, True),
    "length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  007 \r\n\r\n", b"/", 7, True),
    "chunked": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        b"/",
        -1,
        True,
    ),
    "close": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", b"/", 0, False),
    "1.0": (b"GET / HTTP/1.0\r\n\r\n", b"/", 0, False),
    "1.0 kept": (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", b"/", 0, True),
    "absolute": (b"GET http://a/v1 HTTP/1.1\r\nHost: a\r\n\r\n", b"http://a/v1", 0, True),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"*", 0, True),
    "8-bit value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9\r\n\r\n", b"/", 0, True),
    "tab in value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n", b"/", 0, True),
    "empty value": (b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", b"/", 0, True),
    "underscore": (b"GET / HTTP/1.1\r\nHost: a\r\nsession_id: 1\r\n\r\n", b"/", 0, True),
    "IPv6 host": (b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", b"/", 0, True),
}


@pytest.mark.parametrize("name", ACCEPTED_REQUESTS)
def test_accepted_requests(name: str) -> None:
    data, target, length, kept = ACCEPTED_REQUESTS[name]
    head = read_request(data)
    assert (head.target, head.body_length, head.keep_alive) == (target, length, kept)


REFUSED_ANSWERS = {
    "length and chunked": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length list": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
    "length +1": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
    "length huge": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nX: a\rb: c\r\n\r\n",
    "illegal name": b"HTTP/1.1 200 OK\r\nX y: a\r\n\r\n",
    "blank before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nfoo\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 Odd\r\n\r\n",
    "status 000": b"HTTP/1.1 000 Odd\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/3.0": b"HTTP/3.0 200 OK\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no version": b"200 OK\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "flood of interim answers": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
    "large": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
    "large and unfinished": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000,
}


@pytest.mark.parametrize("name", REFUSED_ANSWERS)
def test_refused_answers(name: str) -> None:
    data = REFUSED_ANSWERS[name]
    with pytest.raises(HeadError):
        AnswerReader(65536).feed(data)
    reader = AnswerReader(65536)
    with pytest.raises(HeadError):
        for at in range(0, len(data), 7):
            assert reader.feed(data[at : at + 7]) is None


# name -> answer, status, reason, body length, kept alive, one field as it passes
TOLERATED_ANSWERS = {
    "no reason": (b"HTTP/1.1 200\r\nX: a\r\n\r\n", b"", None, True, (b"X", b"a")),
    "empty reason": (b"HTTP/1.1 200 \r\nX: a\r\n\r\n", b"", None, True, (b"X", b"a")),
    "equal lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\n",
        b"OK",
        3,
        True,
        (b"Content-Length", b"3"),
    ),
    "8-bit value": (b"HTTP/1.1 200 OK\r\nX: \xe9\r\n\r\n", b"OK", None, True, (b"X", b"\xe9")),
    "folded": (b"HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\n\r\n", b"OK", None, True, (b"X", b"a b")),
    "bare LF": (b"HTTP/1.1 200 OK\nX: a\n\n", b"OK", None, True, (b"X", b"a")),
    "1.0": (b"HTTP/1.0 200 OK\r\nX: a\r\n\r\n", b"OK", None, False, (b"X", b"a")),
}


@pytest.mark.parametrize("name", TOLERATED_ANSWERS)
def test_tolerated_answers(name: str) -> None:
    data, reason, length, kept, field = TOLERATED_ANSWERS[name]
    for step in (1, 5, len(data)):
        reader = AnswerReader(65536)
        head = None
        for at in range(0, len(data), step):
            assert head is None
            head = reader.feed(data[at : at + step])
        assert head is not None
        assert (head.status, head.reason) == (200, reason)
        assert (head.body_length, head.keep_alive) == (length, kept)
        assert [(raw, value) for _, raw, value in head.fields] == [field]


def test_what_follows_an_answer_head() -> None:
    reader = AnswerReader(65536)
    assert (
        reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n") is None
    )
    head = reader.feed(b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n")
    assert head is not None
    assert [interim.status for interim in reader.interim] == [100, 103]
    assert reader.rest == b"okHTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("step", [1, 9, 10, 200])
def test_interim_answers_in_pieces(step: int) -> None:
    data = (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    reader = AnswerReader(65536)
    heads = [reader.feed(data[at : at + step]) for at in range(0, len(data), step)]
    assert [head.status for head in heads if head is not None] == [200]
    assert [interim.status for interim in reader.interim] == [103]


def test_forbidden_octets_are_found_without_the_pattern_as_well() -> None:
    octets = (b"\r", b"\n", b"\r\n", b"\t", b" ", b"a", b"\x0b", b"\x7f", b"\xe9")
    for length in range(6):
        for pieces in itertools.product(octets, repeat=length):
            head = b"".join(pieces)
            assert has_forbidden_octets(head) is (FORBIDDEN_OCTETS.search(head) is not None), head
    for octet in range(256):
        head = b"GET / HTTP/1.1\r\nHost: a" + bytes([octet]) + b"b\r\n\r\n"
        assert has_forbidden_octets(head) is (FORBIDDEN_OCTETS.search(head) is not None), head
