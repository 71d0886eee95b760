"""Requests out of a byte stream, cheaply: for the mock provider, never for the gateway.

The idea: one copy of the head in lower case, and a few `find`s in it, instead of a parse
(1 µs against h11's 100). That is lenient where a proxy must not be, so nothing outside of this
room may use it. Whole requests only: a body is held until it is complete.
"""

from __future__ import annotations

# Enough for every upload of the tests (100 MiB is the gateway's own default limit), and an end.
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_HEAD_BYTES = 256 * 1024
END_OF_HEAD = b"\r\n\r\n"


class RequestError(Exception):
    """The client's bytes are not a request that the mock understands; the connection must end."""


class Request:
    """One complete request; `head` is raw and ends with the empty line."""

    __slots__ = ("body", "head", "lowered", "method", "target")

    def __init__(self, head: bytes, lowered: bytes) -> None:
        self.head = head
        self.lowered = lowered
        try:
            self.method, self.target, _ = head[: head.index(b"\r\n")].split(b" ")
        except ValueError:
            raise RequestError("request line") from None
        self.body: bytes | bytearray = b""

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def closes(self) -> bool:
        """Whether the client wants the connection closed after the answer."""
        if b"\r\nconnection: close\r\n" in self.lowered:
            return True
        http10 = b" http/1.0\r\n" in self.lowered
        return http10 and b"\r\nconnection: keep-alive\r\n" not in self.lowered

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header with this lower-case name."""
        return header_value(self.head, self.lowered, name)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """All headers in their order and spelling."""
        lines = self.head[: -len(END_OF_HEAD)].split(b"\r\n")[1:]
        pairs = (line.partition(b":") for line in lines)
        return [(name, value.strip(b" \t")) for name, _, value in pairs]


def header_value(head: bytes, lowered: bytes, name: bytes) -> bytes | None:
    """The raw value of the first header of that lower-case name."""
    start = lowered.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip(b" \t")


class RequestReader:
    """Feed it bytes, ask for requests. After a RequestError, feed it no more."""

    __slots__ = ("_body", "_buffer", "_chunk_left", "_missing", "_request")

    def __init__(self) -> None:
        self._buffer = b""
        self._request: Request | None = None  # its head is here, its body not yet
        self._body = bytearray()
        self._missing = 0  # body bytes still to come; -1: the body is chunked
        self._chunk_left = -1  # of the current chunk, its CRLF included; -1: a size line is next

    def feed(self, data: bytes) -> None:
        if self._request is not None and self._missing > len(data):
            self._body += data
            self._missing -= len(data)
        else:
            self._buffer = self._buffer + data if self._buffer else data

    def next(self) -> Request | None:
        """The next complete request, if there is one."""
        if self._request is None:
            request = self._next_head()
            if self._request is None:
                return request
        if self._missing < 0:
            return self._finish_chunked()
        if len(self._buffer) < self._missing:
            self._body += self._buffer
            self._missing -= len(self._buffer)
            self._buffer = b""
            return None
        self._body += self._buffer[: self._missing]
        self._buffer = self._buffer[self._missing :]
        return self._finish()

    @property
    def empty(self) -> bool:
        """Whether the next byte is the first one of a request."""
        return not self._buffer and self._request is None

    @property
    def wants_continue(self) -> bool:
        """Whether a client waits for 100 (Continue) before it sends its body. True only once."""
        request = self._request
        if request is None or self._body or b"\r\nexpect: 100-continue" not in request.lowered:
            return False
        request.lowered = request.lowered.replace(b"\r\nexpect: 100-continue", b"\r\nexpect: done")
        return True

    def _next_head(self) -> Request | None:
        """A request that is complete with its head, or None; then `_request` may await a body."""
        buffer = self._buffer
        end = buffer.find(END_OF_HEAD) + len(END_OF_HEAD)
        if end < len(END_OF_HEAD):
            if len(buffer) > MAX_HEAD_BYTES:
                raise RequestError("head too long")
            return None
        head = buffer[:end]
        lowered = head.lower()
        request = Request(head, lowered)
        length = self._body_length(head, lowered)
        if 0 <= length <= len(buffer) - end:  # the fast path: all of it came at once
            request.body = buffer[end : end + length]
            self._buffer = buffer[end + length :]
            return request
        self._buffer = buffer[end:]
        self._request = request
        self._missing = length
        return None

    def _body_length(self, head: bytes, lowered: bytes) -> int:
        if b"\r\ntransfer-encoding:" in lowered:
            return -1
        value = header_value(head, lowered, b"content-length")
        if value is None:
            return 0
        if not value.isdigit() or len(value) > 18 or int(value) > MAX_BODY_BYTES:
            raise RequestError("content-length")
        return int(value)

    def _finish_chunked(self) -> Request | None:
        """Moves chunks from the buffer into the body, until the last one or the buffer's end."""
        buffer, at = self._buffer, 0
        done = False
        while not done and at < len(buffer):
            if self._chunk_left < 0:
                end = buffer.find(b"\r\n", at)
                if end < 0:
                    break
                size = _chunk_size(buffer[at:end])
                if size == 0:
                    trailers = buffer.find(END_OF_HEAD, end)
                    if trailers < 0:
                        break
                    at, done = trailers + len(END_OF_HEAD), True
                else:
                    at, self._chunk_left = end + 2, size + 2
            else:
                at += self._take_chunk(buffer, at)
        self._buffer = buffer[at:]
        if len(self._body) > MAX_BODY_BYTES or len(self._buffer) > MAX_HEAD_BYTES:
            raise RequestError("chunked body")
        return self._finish() if done else None

    def _take_chunk(self, buffer: bytes, at: int) -> int:
        taken = min(self._chunk_left, len(buffer) - at)
        content = max(0, min(taken, self._chunk_left - 2))  # without the CRLF that ends it
        self._body += buffer[at : at + content]
        self._chunk_left -= taken
        if self._chunk_left == 0:
            self._chunk_left = -1
        return taken

    def _finish(self) -> Request:
        request = self._request
        assert request is not None
        request.body = self._body
        self._request = None
        self._body = bytearray()
        self._missing = 0
        return request


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise RequestError("chunk size") from None
