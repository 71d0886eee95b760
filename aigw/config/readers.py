"""From a TOML value to a setting: each option of the schema names one of these readers.

A reader takes a raw value and its place; it returns the setting or raises `OptionError`.  Those
of lists and tables report the faults of their parts themselves, each at its place, and go on.
`${VAR}` is put in wherever a string is read.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar, get_type_hints

import msgspec

from aigw.config import values
from aigw.config.problems import At, OptionError, nearest, option_path, reason
from aigw.config.values import Secret

Reader = Callable[[object, At], object]
S = TypeVar("S", bound=msgspec.Struct)

MAX_NUMBER = 1_000_000_000  # of requests, whatever the unit: floats stay exact to the request
MAX_SECRET_BYTES = 64 * 1024  # more than any header may hold

_TYPE_WORDS: list[tuple[type, str]] = [
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (dict, "a table"),
    (list, "a list"),
    (datetime.date, "a date"),
    (datetime.time, "a time"),
]


class Option(msgspec.Struct, frozen=True):
    """What the schema says of a field: its name in TOML, its reader, its meaning.

    A field may have several options; exactly one of them is given then.
    """

    name: str
    read: Reader
    doc: str
    required: bool = False


@cache
def options_of(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Option]]:
    """TOML name → (field, option) of a struct of the schema, in its order."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        option.name: (field, option)
        for field in kind.__struct_fields__
        for option in getattr(hints[field], "__metadata__", ())
        if isinstance(option, Option)
    }


def type_word(raw: object) -> str:
    return next((word for kind, word in _TYPE_WORDS if isinstance(raw, kind)), "something else")


def _expanded(raw: object, at: At, wanted: str, secret: bool = False) -> str:
    if not isinstance(raw, str):
        raise OptionError(f"must be {wanted}, not {type_word(raw)}")
    return values.expand(raw, at.reading.environ, secret) if "${" in raw else raw


def text(check: Callable[[str], str] = str, wanted: str = "a string") -> Reader:
    def read(raw: object, at: At) -> str:
        return check(_expanded(raw, at, wanted))

    return read


def choice(*words: str) -> Reader:
    def read(raw: object, at: At) -> str:
        known = ", ".join(f'"{word}"' for word in words)
        word = _expanded(raw, at, f"one of {known}")
        if word not in words:
            raise OptionError(f"must be one of {known}{nearest(word, words)}")
        return word

    return read


def boolean(raw: object, at: At) -> bool:
    if not isinstance(raw, bool):
        raise OptionError(f"must be true or false, not {type_word(raw)}{_unquoted(raw)}")
    return raw


def integer(least: int, most: int) -> Reader:
    def read(raw: object, at: At) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool):
            raise OptionError(f"must be an integer, not {type_word(raw)}{_unquoted(raw)}")
        return _bounded(raw, least, most)

    return read


def _bounded(number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise OptionError(f"must be from {least} to {most}")
    return number


def _unquoted(raw: object) -> str:
    """A cure for a number or boolean in quotes."""
    if isinstance(raw, str) and raw in ("true", "false"):
        return ", write it without quotes"
    if isinstance(raw, str) and raw.replace(".", "", 1).isdigit():
        return ", write it without quotes"
    return ""


def number(least: float = 0.0, above: bool = False) -> Reader:
    """A finite number, at least `least`, or above it."""

    def read(raw: object, at: At) -> float:
        if not isinstance(raw, int | float) or isinstance(raw, bool):
            raise OptionError(f"must be a number, not {type_word(raw)}{_unquoted(raw)}")
        if not raw <= MAX_NUMBER:  # nor is NaN
            raise OptionError(f"must be at most {MAX_NUMBER}")
        if raw < least or (above and raw == least):
            raise OptionError(f"must be {'more than' if above else 'at least'} {least:g}")
        return float(raw)

    return read


def workers(most: int) -> Reader:
    """`"auto"` or how many."""

    def read(raw: object, at: At) -> int | str:
        wanted = f'"auto" or an integer from 1 to {most}'
        if isinstance(raw, str) and _expanded(raw, at, wanted) == "auto":
            return "auto"
        if not isinstance(raw, int) or isinstance(raw, bool):
            found = "another string" if isinstance(raw, str) else type_word(raw)
            raise OptionError(f"must be {wanted}, not {found}{_unquoted(raw)}")
        return _bounded(raw, 1, most)

    return read


def duration(zero: bool = False) -> Reader:
    """Seconds from `"10s"`; zero only where it has a meaning."""

    def read(raw: object, at: At) -> float:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            hint = f': "{raw}s"?' if 0 <= raw <= values.MAX_DURATION_S else ""
            raise OptionError(f"must be a string with a unit{hint} (ms, s, m, h, d)")
        seconds = values.duration_s(_expanded(raw, at, 'a duration such as "10s"'))
        if seconds == 0 and not zero:
            raise OptionError("must be more than zero")
        return seconds

    return read


def size(least: int, most: int = values.MAX_SIZE_BYTES) -> Reader:
    """Bytes from `"32KiB"` or a plain integer."""

    def read(raw: object, at: At) -> int:
        if isinstance(raw, int) and not isinstance(raw, bool):
            return _bounded(raw, least, most)
        return _bounded(values.size_bytes(_expanded(raw, at, 'a size such as "1MiB"')), least, most)

    return read


def path_of_file(raw: object, at: At) -> str:
    """A path relative to the file that names it; empty = none."""
    name = _expanded(raw, at, "a path")
    return str(at.document.folder / name) if name else ""


def log_destination(raw: object, at: At) -> str:
    """`"stdout"`, `"off"`, or a path (with a "/" or "." in it, so that no typo becomes a file)."""
    word = _expanded(raw, at, '"stdout", "off" or a path')
    if word in ("stdout", "off"):
        return word
    if "/" not in word and "." not in word:
        near = nearest(word, ("stdout", "off"))
        raise OptionError(f'must be "stdout", "off" or a path such as "./access.log"{near}')
    return str(at.document.folder / word)


def moment(raw: object, at: At) -> float:
    """Unix seconds from a TOML date (its 00:00 UTC) or date and time (UTC without an offset)."""
    if isinstance(raw, datetime.datetime):
        when = raw if raw.tzinfo else raw.replace(tzinfo=datetime.UTC)
    elif isinstance(raw, datetime.date):
        when = datetime.datetime(raw.year, raw.month, raw.day, tzinfo=datetime.UTC)
    else:
        hint = ", write it without quotes" if isinstance(raw, str) else ""
        raise OptionError(f"must be a date such as 2030-01-31, not {type_word(raw)}{hint}")
    if not 1970 <= when.year < 9999:
        raise OptionError("must lie between 1970 and 9998")
    return when.timestamp()


def secret(check: Callable[[str], str] = values.visible) -> Reader:
    """A secret as it stands, from a variable, or from a file (`"file:/path"`)."""

    def read(raw: object, at: At) -> Secret:
        plain = _expanded(raw, at, "a string", secret=True)
        if len(plain) > MAX_SECRET_BYTES:
            raise OptionError("is too long for a header field")
        if plain.startswith("file:"):
            path = at.document.folder / plain.removeprefix("file:")
            # A variable in its name may hold the secret itself, by mistake.
            plain = _secret_from_file(path, str(path) if plain == raw else str(raw))
        return Secret(check(plain))

    return read


def _secret_from_file(path: Path, shown: str) -> str:
    try:
        if path.exists() and not path.is_file():
            raise OptionError(f"{shown} is not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        plain = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise OptionError(f"{shown} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"can't read {shown}: {reason(error)}") from None
    if len(content) > MAX_SECRET_BYTES:
        raise OptionError(f"{shown} is too large for a secret")
    if not plain:
        raise OptionError(f"{shown} is empty")
    return plain


def optional_secret(check: Callable[[str], str]) -> Reader:
    """As `secret`, but empty = none."""
    read_secret = secret(check)

    def read(raw: object, at: At) -> object:
        return Secret("") if raw == "" else read_secret(raw, at)

    return read


def list_of(read_one: Reader, least: int = 0, unique: bool = True) -> Reader:
    def read(raw: object, at: At) -> tuple[object, ...]:
        if not isinstance(raw, list):
            raise OptionError(f"must be a list, not {type_word(raw)}{_in_brackets(raw)}")
        if len(raw) < least:
            raise OptionError("must not be empty")
        found: list[object] = []
        for index, item in enumerate(raw):
            try:
                value = read_one(item, at.child(index))
            except OptionError as wrong:
                at.child(index).report(str(wrong))
                continue
            if unique and value in found:
                first = at.child(found.index(value))
                at.child(index).report(f"is the same as {option_path(first.steps)}")
            found.append(value)
        return tuple(found)

    return read


def _in_brackets(raw: object) -> str:
    return ", put it in [ ]" if isinstance(raw, str) else ""


def one_or_more(read_one: Reader) -> Reader:
    """A value alone, or a list of at least one."""
    read_list = list_of(read_one, least=1)

    def read(raw: object, at: At) -> object:
        return read_list(raw, at) if isinstance(raw, list) else (read_one(raw, at),)

    return read


def one(read_one: Reader) -> Reader:
    """A value alone, where the setting is a list."""

    def read(raw: object, at: At) -> object:
        return (read_one(raw, at),)

    return read


def word_or(word: str, read_other: Reader) -> Reader:
    """A fixed word, or what the other reader takes."""

    def read(raw: object, at: At) -> object:
        if isinstance(raw, str):
            if _expanded(raw, at, "") == word:
                return word
            raise OptionError(f'must be "{word}" or a list, put it in [ ]')
        return read_other(raw, at)

    return read


def table(kind: type[msgspec.Struct]) -> Reader:
    def read(raw: object, at: At) -> object:
        return read_table(kind, raw, at)

    return read


def tables(kind: type[msgspec.Struct]) -> Reader:
    """An array of tables."""

    def read(raw: object, at: At) -> tuple[object, ...]:
        name = option_path(at.steps[-1:])
        if isinstance(raw, dict):
            raise OptionError(f"must be an array of tables: write [[{name}]]")
        if not isinstance(raw, list):
            raise OptionError(f"must be an array of tables, not {type_word(raw)}")
        found = []
        for index, item in enumerate(raw):
            try:
                found.append(read_table(kind, item, at.child(index)))
            except OptionError as wrong:
                at.child(index).report(str(wrong))
                found.append(kind())
        return tuple(found)

    return read


def read_table(kind: type[S], raw: object, at: At) -> S:
    """A struct of the schema from a table; a field with a fault keeps its default."""
    if not isinstance(raw, dict):
        hint = f": write [{option_path(at.steps)}]" if isinstance(raw, list) else ""
        raise OptionError(f"must be a table, not {type_word(raw)}{hint}")
    options = options_of(kind)
    given: dict[str, object] = {}
    named: dict[str, str] = {}
    for name, value in raw.items():
        known = options.get(name)
        if known is None:
            at.child(name).report(_unknown(kind, name))
            continue
        field, option = known
        if field in named:
            at.child(name).report(f"give either `{named[field]}` or `{name}`, not both")
            continue
        named[field] = name
        try:
            given[field] = option.read(value, at.child(name))
        except OptionError as wrong:
            at.child(name).report(str(wrong))
    for name, (field, option) in options.items():
        if option.required and field not in named:
            named[field] = name
            at.child(name).report(f"is missing: {option.doc}")
    return kind(**given)


def _unknown(kind: type[msgspec.Struct], name: str) -> str:
    names = options_of(kind)
    near = nearest(name, names)
    return f"unknown option{near}" if near else f"unknown option, known here: {', '.join(names)}"
