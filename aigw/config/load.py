"""gateway.toml, and the keys file that it may name, into `Settings`.

The only place of the room that opens configuration files.  Everything that is wrong in them is
raised at once, as one `ConfigError`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aigw.config import grammar
from aigw.config.checks import check
from aigw.config.problems import At, ConfigError, Document, OptionError, Problem, Reading, reason
from aigw.config.readers import read_table
from aigw.config.schema import MOST_WORKERS, KeySettings, KeysFile, Listen, Settings
from aigw.errors import StartError

MAX_FILE_BYTES = 64 * 1024 * 1024  # 300,000 keys; /dev/zero is not a configuration

_LONG_NUMBER = re.compile(r"[0-9_]{4000}")  # Python reads integers of up to 4,300 digits
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z")

# What tomllib says → what the reader of the file should do; whatever is not here stays as it is.
_SYNTAX = [
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Cannot declare \('(.+?)',?\) twice", "[{0}] stands twice, put both into one"),
        ("Cannot overwrite a value", "a key is given twice"),
        ("Duplicate inline table key '(.+)'", "{0} is given twice in the same braces"),
        (
            "Invalid value",
            "not a value: write true or false in lower case, texts in straight quotes",
        ),
        ("Unclosed array", "a comma or the closing ] is missing"),
        ("Unclosed inline table", "a comma or the closing }} is missing"),
        (
            "Expected '=' after a key in a key/value pair",
            'no "=" after a key: write address = "…", TOML has no colon',
        ),
    )
]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read, check and resolve a configuration; raises `ConfigError` with every fault in it."""
    raw, document = _parse_main(path)
    reading = Reading(environ, document.file)
    at = At(reading, document)
    settings = read_table(Settings, raw, at)
    keys = list(settings.keys)
    keys_at = [at.child("keys", index) for index in range(len(keys))]
    if settings.keys_file:
        more, more_at = _read_keys_file(Path(settings.keys_file), at)
        keys += more
        keys_at += more_at
    settings = msgspec.structs.replace(settings, keys=tuple(keys), source=str(path))
    check(settings, at, keys_at)
    reading.finish()
    return settings


def load_admin(path: Path, environ: Mapping[str, str]) -> Listen:
    """Where the running aigw can be asked: `admin` and `admin_token` alone, the rest as by default.

    For `aigw reload` and `aigw stop`: they need not have the variables of the rest, and must work
    while it is wrong.  Raises `ConfigError`.
    """
    raw, document = _parse_main(path)
    reading = Reading(environ, document.file)
    listen = raw.get("listen")
    given = listen if isinstance(listen, dict) else {}
    wanted = {name: given[name] for name in ("admin", "admin_token") if name in given}
    found = read_table(Listen, wanted, At(reading, document, ("listen",)))
    reading.finish()
    return found


def _read_keys_file(path: Path, at: At) -> tuple[tuple[KeySettings, ...], list[At]]:
    try:
        raw, document = _parse(path, _read(path))
    except OptionError as wrong:
        at.child("keys_file").report(f"{path} {wrong}")
        return (), []
    except ConfigError as error:
        for problem in error.problems:
            at.reading.add(problem)
        return (), []
    file_at = At(at.reading, document)
    keys = read_table(KeysFile, raw, file_at).keys
    return keys, [file_at.child("keys", index) for index in range(len(keys))]


def _parse_main(path: Path) -> tuple[dict[str, object], Document]:
    """The TOML of the main file; raises `ConfigError` when it can't be read or is none."""
    try:
        content = _read(path)
    except OptionError as wrong:
        raise ConfigError([Problem(str(path), None, "", str(wrong))]) from None
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> tuple[dict[str, object], Document]:
    """The TOML of a file's content; raises `ConfigError` when it is none."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(path), line, "", "is not UTF-8 text")]) from None
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([_syntax_problem(path, text, error)]) from None
    return raw, Document(str(path), path.parent, text)


def _read(path: Path) -> bytes:
    """All of a file; raises `OptionError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise OptionError(f"can't be read: {reason(error)}") from None
    if len(content) > MAX_FILE_BYTES:
        raise OptionError("is too large")
    return content


def _syntax_problem(path: Path, text: str, error: Exception) -> Problem:
    """What tomllib says, with the place that it puts at the end of its text."""
    if isinstance(error, RecursionError):
        return Problem(str(path), None, "", "is not valid TOML: nested too deeply")
    said = str(error)
    place = _PLACE.search(said)
    what = said[: place.start()] if place else said
    what = f"is not valid TOML: {_in_our_words(what, place is not None and place[1] is None)}"
    if place is None:
        number = _LONG_NUMBER.search(text)
        line = text.count("\n", 0, number.start()) + 1 if number else None
        return Problem(str(path), line, "", what)
    if place[1] is None:
        return Problem(str(path), text.rstrip().count("\n") + 1, "", f"{what}, at the end")
    return Problem(str(path), int(place[1]), "", f"{what}, column {place[2]}")


def _in_our_words(said: str, at_end: bool) -> str:
    """What tomllib says, with a cure where one is known."""
    if at_end and said == "Invalid value":
        return "a value or a closing bracket is missing"
    for pattern, words in _SYNTAX:
        if match := pattern.fullmatch(said):
            return words.format(*(key.replace("', '", ".") for key in match.groups()))
    return said[:1].lower() + said[1:]


def override(settings: Settings, address: str | None, workers: int | None) -> Settings:
    """The settings with what the command line says instead; raises `StartError`."""
    listen = settings.listen
    if address is not None:
        try:
            listen = msgspec.structs.replace(listen, address=(grammar.address(address),))
        except OptionError as wrong:
            raise StartError(f"--address {address}: {wrong}") from None
        if listen.admin == listen.address[0] and not listen.admin.endswith(":0"):
            raise StartError(f"--address {address}: is already the address of the admin listener")
    if workers is not None:
        if not 1 <= workers <= MOST_WORKERS:
            raise StartError(f"--workers {workers}: must be from 1 to {MOST_WORKERS}")
        listen = msgspec.structs.replace(listen, workers=workers)
    return msgspec.structs.replace(settings, listen=listen)
