"""What is wrong with a configuration, and where.

A fault is reported with the path of its option; the line is looked up at the end, and only if
there is a fault at all, since the scanner for positions costs as much as reading the file.
All faults are gathered, so that one run of `aigw check` shows everything.  A fault at a path
silences later ones at or below it: they would only be its consequences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from aigw.config.positions import Steps, locate
from aigw.errors import StartError

# A terminal page or two; a file with 10,000 broken keys is broken in one way.
PROBLEMS_SHOWN = 100

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


class OptionError(Exception):
    """A value that can't be accepted; the text says why and what would be right."""


class Problem(msgspec.Struct, frozen=True):
    """One fault; `line` is None where it is unknown, `option` is empty for the file as a whole."""

    file: str
    line: int | None
    option: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        line = ": ".join(part for part in (place, self.option, self.message) if part)
        return _printable(line)


def _printable(text: str) -> str:
    """A message may repeat a part of the file, which must break neither the line nor the terminal,
    nor be read in another order than it is written in."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class ConfigError(StartError):
    """A configuration that can't be used: one line per problem, `file:line: option: message`."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:PROBLEMS_SHOWN]]
        hidden = len(self.problems) - PROBLEMS_SHOWN
        if hidden > 0:
            lines.append(f"… and {hidden} more")
        super().__init__("\n".join(lines))


def option_path(steps: Steps) -> str:
    """`("keys", 0, "rps")` as `keys[0].rps`."""
    parts: list[str] = []
    for step in steps:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            name = step if _BARE_KEY.match(step) else json.dumps(step)
            parts.append(f".{name}" if parts else name)
    return "".join(parts)


class Document:
    """One TOML file: the name to show, the folder that its relative paths start from, its text."""

    __slots__ = ("_lines", "file", "folder", "text")

    def __init__(self, file: str, folder: Path, text: str) -> None:
        self.file = file
        self.folder = folder
        self.text = text
        self._lines: dict[Steps, int] | None = None

    def line(self, steps: Steps) -> int | None:
        """The line of an option, or of the nearest table around it that stands in the file."""
        if self._lines is None:
            self._lines = locate(self.text)
        for length in range(len(steps), 0, -1):
            line = self._lines.get(steps[:length])
            if line is not None:
                return line
        return None


class Reading:
    """One attempt at reading a configuration: the variables it may use, the faults found so far.

    `file` is the main one, whose faults come first.
    """

    __slots__ = ("_found", "_placed", "_silenced", "environ", "file")

    def __init__(self, environ: Mapping[str, str], file: str) -> None:
        self.environ = environ
        self.file = file
        self._found: list[tuple[At, str]] = []
        self._placed: list[Problem] = []
        self._silenced: set[tuple[str, Steps]] = set()

    def report(self, at: At, message: str) -> None:
        file = at.document.file
        if any((file, at.steps[:n]) in self._silenced for n in range(len(at.steps) + 1)):
            return
        self._silenced.add((file, at.steps))
        self._found.append((at, message))

    def add(self, problem: Problem) -> None:
        """A fault whose place is known already, as that of a file that is no TOML."""
        self._placed.append(problem)

    def finish(self) -> None:
        """Raise `ConfigError` if anything was reported, in the order of each file's lines."""
        problems = self._placed + [
            Problem(at.document.file, at.line(), option_path(at.steps), message)
            for at, message in self._found
        ]
        if problems:
            raise ConfigError(sorted(problems, key=self._order))

    def _order(self, problem: Problem) -> tuple[bool, str, int]:
        return problem.file != self.file, problem.file, problem.line or 0


class At:
    """A place in a document that is being read."""

    __slots__ = ("document", "reading", "steps")

    def __init__(self, reading: Reading, document: Document, steps: Steps = ()) -> None:
        self.reading = reading
        self.document = document
        self.steps = steps

    def child(self, *steps: str | int) -> At:
        return At(self.reading, self.document, self.steps + steps)

    def line(self) -> int | None:
        return self.document.line(self.steps)

    def report(self, message: str) -> None:
        self.reading.report(self, message)

    def seen_from(self, other: At) -> str:
        """This place for a message about `other`: `keys[0] (line 12)`, or with the other file."""
        line = self.line()
        file = self.document.file if self.document is not other.document else ""
        place = f"{file}:{line}" if file and line else file or (f"line {line}" if line else "")
        return f"{option_path(self.steps)} ({place})" if place else option_path(self.steps)


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean "rps"?`, or nothing when no known name is near."""
    import difflib  # only a fault pays for the import

    by_lower = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f', did you mean "{by_lower[match[0]]}"?' if match else ""


def reason(error: OSError | ValueError) -> str:
    """Why a file can't be read, without its name."""
    return getattr(error, "strerror", None) or str(error)
