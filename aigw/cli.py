"""The commands: what is typed becomes a call, what went wrong becomes one line and an exit status.

Here stand arguments, printing and exit statuses; what a command does stands in the rooms.  Each
command imports what it needs when it is called, so that `aigw --version` and `aigw keys new` do not
wait for what only `aigw run` needs.

Without `-c`: `./gateway.toml`; without that file, what the providers' variables say.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aigw.errors import StartError, in_one_line

if TYPE_CHECKING:
    from aigw.config import Listen, Settings, ZeroConfig

DEFAULT_FILE = Path("gateway.toml")
ANSWER_S = 30.0  # a reload reads the file (a second at 10,000 keys) and waits 2 s for the workers

# Where an address that means every interface is reached from this machine.
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        if sys.platform == "win32":
            raise StartError("Windows has no fork(): run aigw in WSL")
        status: int = arguments.command(arguments)
        sys.stdout.flush()
        return status
    except StartError as fault:
        for line in str(fault).splitlines():
            _say(f"aigw: {line}")
    except BrokenPipeError:
        # Nobody reads on; the interpreter must not complain about it when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except Exception as fault:  # noqa: BLE001 - the edge of the program
        _say(f"aigw: internal error: {in_one_line(fault)}")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aigw",
        description="An AI gateway: authenticates, limits, routes and splices AI traffic.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    file = argparse.ArgumentParser(add_help=False)
    file.add_argument(
        "-c", metavar="FILE", dest="file", type=Path, help="default: ./gateway.toml, if it exists"
    )

    run = _command(commands, "run", _run, "serve until SIGTERM", file)
    run.add_argument("--address", metavar="HOST:PORT", help="instead of listen.address")
    run.add_argument("--workers", metavar="N", type=int, help="instead of listen.workers")
    _command(commands, "check", _check, "validate and print the effective routes", file)
    demo = _command(
        commands, "demo", _demo, "gateway, mock provider and a streamed request, offline"
    )
    demo.add_argument("--once", action="store_true", help="end after the streamed answer")
    keys = commands.add_parser("keys", help="make gateway keys").add_subparsers(
        metavar="COMMAND", required=True
    )
    new = _command(keys, "new", _new_key, "print a new key, once, and what to configure")
    new.add_argument("name", metavar="NAME", help="what logs and metrics will call it")
    _command(commands, "reload", _reload, "make the running aigw read its file anew", file)
    _command(commands, "stop", _stop, "make the running aigw finish its requests and end", file)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    call: Callable[[argparse.Namespace], int],
    text: str,
    *parents: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    sentence = text[:1].upper() + text[1:]
    parser = commands.add_parser(name, help=text, description=sentence, parents=parents)
    parser.set_defaults(command=call)
    return parser


class _Version(argparse.Action):
    """Looking the version up costs 20 ms, which only those pay who ask for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"aigw {version('aigw')}")
        parser.exit()


# --- run, check, demo --------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    # Loading 300 modules leaves 0.3 MiB of garbage; looking for it costs a sixth of the start.
    # What they hold stays for good, so no collector need look at it later either.
    gc.disable()
    from aigw.config import describe, load, override
    from aigw.master import run_master

    gc.freeze()
    gc.enable()
    path = _file(arguments.file)
    if path is None:
        made = _from_variables(arguments)
        if made.generated_key is not None:
            _say("aigw: AIGW_KEY is not set: until aigw ends, clients use this key:")
            _say(made.generated_key.reveal())
        _say(describe(made.settings))
        return run_master(made.settings, lambda: made.settings)

    def read() -> Settings:
        return override(load(path, os.environ), arguments.address, arguments.workers)

    return run_master(read(), read)


def _check(arguments: argparse.Namespace) -> int:
    from aigw.config import describe, load

    path = _file(arguments.file)
    settings = load(path, os.environ) if path else _from_variables(arguments).settings
    print(describe(settings))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from aigw.demo import run_demo

    return run_demo(arguments.once)


def _file(given: Path | None) -> Path | None:
    """The file to read; None: there is none, the variables count."""
    return given or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def _from_variables(arguments: argparse.Namespace) -> ZeroConfig:
    from aigw.config import ZeroConfig, override, zero_config

    made = zero_config(os.environ, getattr(arguments, "address", None))
    settings = override(made.settings, None, getattr(arguments, "workers", None))
    return ZeroConfig(settings, made.generated_key)


def _say(text: str) -> None:
    """For the operator: standard output belongs to the access log."""
    print(text, file=sys.stderr)


# --- keys new ----------------------------------------------------------------------------------

NEW_KEY = """\
{key}

This is shown once; the configuration needs only its digest:

[[keys]]
name = {name}
key = "sha256:{digest}"
"""


def _new_key(arguments: argparse.Namespace) -> int:
    import json  # a JSON string is a TOML string

    from aigw.config.grammar import name
    from aigw.config.problems import OptionError
    from aigw.config.values import key_digest, new_key

    try:
        quoted = json.dumps(name(arguments.name), ensure_ascii=False)
    except OptionError as wrong:
        raise StartError(f"NAME {wrong}") from None
    key = new_key()
    print(NEW_KEY.format(key=key, name=quoted, digest=key_digest(key).hex()), end="")
    return 0


# --- reload, stop ------------------------------------------------------------------------------


def _reload(arguments: argparse.Namespace) -> int:
    return _post(arguments.file, "/reload")


def _stop(arguments: argparse.Namespace) -> int:
    return _post(arguments.file, "/stop")


def _post(file: Path | None, path: str) -> int:
    """Ask the running aigw; print its answer."""
    from http.client import HTTPException

    from aigw.config import Listen, load_admin

    known = _file(file)
    listen = Listen() if known is None else load_admin(known, os.environ)
    if not listen.admin:
        raise StartError('listen.admin is "": there is no admin listener to ask')
    try:
        status, body = _answer(listen, path)
    except (OSError, HTTPException) as fault:
        why = getattr(fault, "strerror", None) or fault or type(fault).__name__
        raise StartError(f"no aigw answers at {listen.admin} (listen.admin): {why}") from None
    if status >= 300:
        raise StartError(_told(body))
    print(body.decode(errors="replace").strip())
    return 0


def _answer(listen: Listen, path: str) -> tuple[int, bytes]:
    """Status and body of a POST to the admin listener."""
    import socket
    from contextlib import closing
    from http.client import HTTPConnection

    from aigw.sockets import parse_address

    address = parse_address(listen.admin)
    host = ANYWHERE.get(address.host, address.host)
    headers = {"Host": "localhost"}
    if listen.admin_token:
        headers["Authorization"] = f"Bearer {listen.admin_token.reveal()}"
    with closing(HTTPConnection(host, address.port, timeout=ANSWER_S)) as connection:
        if address.path:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(ANSWER_S)
            connection.sock.connect(address.path)
        connection.request("POST", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _told(body: bytes) -> str:
    """The problems of a refused reload, else the message of the error."""
    import msgspec

    try:
        answer = msgspec.json.decode(body, type=dict[str, object])
        problems = msgspec.convert(answer.get("problems", ()), tuple[str, ...])
        error = msgspec.convert(answer["error"], dict[str, object])
    except (msgspec.MsgspecError, KeyError):
        return f"not understood: {body[:200]!r}"
    return "\n".join(problems) or str(error.get("message"))
