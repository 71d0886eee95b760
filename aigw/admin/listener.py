"""The admin listener: a small HTTP/1.1 server for operators, scrapers and orchestrators.

It is not for clients and not for the hot path: streams, tasks and h11, one coroutine a connection.
What an endpoint shows or does is asked of `Control`, the controller's side; here stand HTTP and the
rules of who may ask.  GET changes nothing.  Three things protect it: it is bound to loopback unless
there is an `admin_token`; a Host that is a name (but localhost or the configured one) is refused,
else a web page could reach it by rebinding its own name; a POST with a foreign Origin is refused,
else a web page could send one blindly.  `/health/…` is exempt: an orchestrator has no token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple, Protocol

import h11
import msgspec

from aigw.errors import StartError, in_one_line

CONNECTIONS = 64  # at once; scrapers and orchestrators keep a handful
HEAD_BYTES = 16 * 1024  # of a request; nothing here needs a longer one
BODY_BYTES = 64 * 1024  # of a request, read and dropped: no endpoint takes one
READ_BYTES = 16 * 1024
PATIENCE_S = 10.0  # for a request to arrive, for an answer to be taken
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

log = logging.getLogger("aigw")


class Access(NamedTuple):
    """Who may ask: the configured admin host, and the SHA-256 of the token (empty: none needed)."""

    host: str
    token_digest: bytes

    def __repr__(self) -> str:  # without the digest: that of a short token can be guessed
        return f"Access(host={self.host!r})"


class Reloaded(NamedTuple):
    """How a reload went: with problems nothing has changed; `late` workers are being replaced."""

    version: int
    problems: tuple[str, ...] = ()
    acknowledged: tuple[int, ...] = ()
    late: tuple[int, ...] = ()


class Control(Protocol):
    """What the admin listener asks of the controller."""

    def access(self) -> Access: ...
    def metrics(self) -> bytes: ...
    def unready(self) -> str | None:
        """Why no new traffic should come here; None if it should."""

    def upstreams(self) -> object:
        """What `/upstreams` shows, to be encoded as JSON; without secrets."""

    async def reload(self) -> Reloaded: ...
    def stop(self) -> None: ...


class Answer(NamedTuple):
    """An answer before it is framed."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Question(NamedTuple):
    """A request without its body; header names in lower case."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]

    def __repr__(self) -> str:  # without headers, which hold the token
        return f"Question({self.method} {self.path})"

    def header(self, name: bytes) -> str | None:
        """The value of a header, of the first if it is repeated."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)


def as_json(value: object) -> bytes:
    """JSON for people and programs alike."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def error(
    status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> Answer:
    """An error in the shape of the data listener's."""
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Answer(status, as_json({"error": told}), JSON, headers)


# --- endpoints ---------------------------------------------------------------------------------


async def _metrics(control: Control) -> Answer:
    return Answer(200, control.metrics(), EXPOSITION)


async def _live(control: Control) -> Answer:
    return Answer(200, b"ok\n", TEXT)


async def _ready(control: Control) -> Answer:
    why = control.unready()
    return Answer(200, b"ok\n", TEXT) if why is None else Answer(503, f"{why}\n".encode(), TEXT)


async def _upstreams(control: Control) -> Answer:
    return Answer(200, as_json(control.upstreams()))


async def _reload(control: Control) -> Answer:
    done = await control.reload()
    if done.problems:
        answer = error(400, "invalid_configuration", "Nothing was changed: " + done.problems[0])
        told = msgspec.json.decode(answer.body, type=dict[str, object])
        return answer._replace(body=as_json({**told, "problems": done.problems}))
    return Answer(
        200,
        as_json({"version": done.version, "acknowledged": done.acknowledged, "late": done.late}),
    )


async def _stop(control: Control) -> Answer:
    control.stop()
    return Answer(202, as_json({"stopping": True}))


Endpoint = Callable[[Control], Awaitable[Answer]]
ENDPOINTS: dict[str, tuple[tuple[str, ...], Endpoint]] = {
    "/metrics": (("GET", "HEAD"), _metrics),
    "/health/live": (("GET", "HEAD"), _live),
    "/health/ready": (("GET", "HEAD"), _ready),
    "/upstreams": (("GET", "HEAD"), _upstreams),
    "/reload": (("POST",), _reload),
    "/stop": (("POST",), _stop),
}
EXEMPT = ("/health/live", "/health/ready")


# --- where it may listen -----------------------------------------------------------------------


def refuse_unprotected(sock: socket.socket | None, token: str) -> None:
    """Raise `StartError` for a socket that others can reach, if there is no token.

    The configuration is checked before; this asks what was bound, be it that systemd has passed the
    socket, or that a name (localhost, even) stands for another address than one thinks.
    """
    if sock is not None and not token and not _is_local(sock):
        raise StartError(
            f"the admin listener on {sock.getsockname()[0]} is reachable from outside:"
            " set listen.admin_token, or listen on 127.0.0.1"
        )


def _is_local(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:
        return True
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


# --- who may ask -------------------------------------------------------------------------------


def refusal(question: Question, access: Access) -> Answer | None:
    """Why a request is refused; None if it may pass."""
    if question.path not in EXEMPT:
        host = question.header(b"host") or ""
        if not _host_is_ours(host, access.host):
            return error(403, "forbidden_host", "Ask by IP address, localhost or the admin host.")
        if not _token_fits(question.header(b"authorization"), access.token_digest):
            why = "This needs the admin token: Authorization: Bearer <listen.admin_token>."
            return error(401, "invalid_admin_token", why, (("WWW-Authenticate", "Bearer"),))
    return _unknown(question) or _foreign(question)


def _unknown(question: Question) -> Answer | None:
    endpoint = ENDPOINTS.get(question.path)
    if endpoint is None:
        return error(404, "unknown_url", "Unknown URL. There are: " + " ".join(ENDPOINTS))
    methods = ", ".join(endpoint[0])
    if question.method not in endpoint[0]:
        return error(405, "method_not_allowed", f"Use {methods}.", (("Allow", methods),))
    return None


def _foreign(question: Question) -> Answer | None:
    """Refuse a POST that a web page of another origin has sent."""
    host = (question.header(b"host") or "").lower()
    for name, value in question.headers:
        if name == b"origin" and question.method == "POST":
            origin = value.decode("latin-1").lower()
            if origin not in (f"http://{host}", f"https://{host}"):
                return error(403, "forbidden_origin", "The Origin is not this listener's.")
    return None


def _host_is_ours(host: str, configured: str) -> bool:
    match = re.fullmatch(r"(?:\[(?P<six>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::\d*)?", host)
    if match is None:
        return False
    name = (match["six"] or match["name"] or "").lower()
    if name in ("localhost", configured.lower()):
        return bool(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _token_fits(authorization: str | None, token_digest: bytes) -> bool:
    if not token_digest:
        return True
    scheme, _, token = (authorization or "").partition(" ")
    digest = hashlib.sha256(token.strip().encode("latin-1")).digest()
    return scheme.lower() == "bearer" and hmac.compare_digest(digest, token_digest)


# --- HTTP --------------------------------------------------------------------------------------


class AdminListener:
    """The server on an inherited socket; it owns the tasks of its connections."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._conversations: dict[asyncio.Task[None], _Conversation] = {}
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Accept on a bound socket."""
        if sock.family == socket.AF_UNIX:
            self._server = await asyncio.start_unix_server(self._accept, sock=sock)
        else:
            self._server = await asyncio.start_server(self._accept, sock=sock)

    async def close(self) -> None:
        """Stop accepting and end all conversations."""
        if self._server is not None:
            self._server.close()
        conversations = tuple(self._conversations)
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_full = len(self._conversations) >= CONNECTIONS and not self._make_room()
        conversation = _Conversation(reader, writer, self._control)
        task = asyncio.create_task(self._serve(conversation, writer, is_full))
        self._conversations[task] = conversation
        task.add_done_callback(self._conversations.pop)

    def _make_room(self) -> bool:
        """End who has asked for nothing, or not taken its answer, for longest: else a few who only
        wait would keep out an orchestrator, who would take aigw for dead."""
        silent = {
            task: told.silent_since_s
            for task, told in self._conversations.items()
            if told.silent_since_s is not None and not task.cancelling()
        }
        return bool(silent) and min(silent, key=lambda task: silent[task]).cancel()

    async def _serve(
        self, conversation: _Conversation, writer: asyncio.StreamWriter, is_full: bool
    ) -> None:
        try:
            if is_full:
                await conversation.refuse(error(503, "overloaded", "Too many connections."))
            else:
                await conversation.run()
        except (OSError, TimeoutError):
            pass  # the other side is gone or does not take its answer
        except Exception as fault:  # noqa: BLE001 - the edge of a task
            log.error("admin listener: a connection failed: %s", in_one_line(fault))
        finally:
            writer.transport.abort()


class _Conversation:
    """One connection: request, answer, request, answer."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, control: Control
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._control = control
        # Nothing is kept on our side: `drain` returns when the kernel has it all.
        writer.transport.set_write_buffer_limits(0)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._method = ""
        self.silent_since_s: float | None = time.monotonic()  # None while we are asked

    async def run(self) -> None:
        """Serve until one side wants no more."""
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    question = await self._question()
            except TimeoutError:
                if self._http.their_state is not h11.IDLE or self._http.trailing_data[0]:
                    await self.refuse(error(408, "request_timeout", "The request was too slow."))
                return
            except h11.RemoteProtocolError as fault:
                await self.refuse(_malformed(fault))
                return
            if question is None:
                return
            self.silent_since_s = None
            answer = await self._answer(question)
            self.silent_since_s = time.monotonic()  # it is the client's turn: to take it, to ask
            await self._send(answer)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                await self._leave()
                return
            self._method = ""
            self._http.start_next_cycle()

    async def _question(self) -> Question | None:
        """The next request, its body read and dropped; None where the client has left."""
        question: Question | None = None
        body_bytes = 0
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Request):
                self._method = event.method.decode("ascii")
                path = event.target.decode("ascii").partition("?")[0]
                question = Question(self._method, path, list(event.headers))
                if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                    raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
            elif isinstance(event, h11.Data):
                body_bytes += len(event.data)
                if body_bytes > BODY_BYTES:
                    raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                return question
            else:
                return None

    async def _next_event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                head = h11.InformationalResponse(status_code=100, headers=[])
                self._writer.write(self._http.send(head) or b"")
            self._http.receive_data(await self._reader.read(READ_BYTES))

    async def _answer(self, question: Question) -> Answer:
        refused = refusal(question, self._control.access())
        if refused is not None:
            return refused
        try:
            return await ENDPOINTS[question.path][1](self._control)
        except Exception as fault:  # noqa: BLE001 - the edge of a task
            log.error("admin listener: %s failed: %s", question.path, in_one_line(fault))
            return error(500, "internal_error", "Internal error; the log says more.")

    async def _send(self, answer: Answer) -> None:
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *answer.headers,
        ]
        phrase = HTTPStatus(answer.status).phrase
        head = h11.Response(status_code=answer.status, headers=headers, reason=phrase)
        parts = [self._http.send(head)]
        if self._method != "HEAD":
            parts.append(self._http.send(h11.Data(data=answer.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._writer.write(b"".join(part for part in parts if part))
        async with asyncio.timeout(PATIENCE_S):
            await self._writer.drain()

    async def refuse(self, answer: Answer) -> None:
        """Answer what could not be read, and close."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(answer._replace(headers=(("Connection", "close"),)))
            await self._leave()

    async def _leave(self) -> None:
        """Close so that the answer arrives: a reset would overtake it where bytes lie unread."""
        self._writer.write_eof()
        async with asyncio.timeout(1.0):
            while await self._reader.read(READ_BYTES):
                pass


def _malformed(fault: h11.RemoteProtocolError) -> Answer:
    status = fault.error_status_hint
    code = {413: "request_too_large", 431: "headers_too_large", 501: "unsupported_upgrade"}
    why = str(fault).partition(": b")[0]  # h11 goes on with the bytes, which may hold the token
    return error(status, code.get(status, "malformed_request"), f"Not understood: {why}")
