"""The line of every key and array element of a TOML text that tomllib has accepted.

tomllib gives values without places, so that this second scanner walks the text once more when a
fault is to be reported.  It judges nothing and decodes nothing but keys: for valid TOML it finds
exactly the paths that tomllib finds (a property test holds it to that); where it is lost all the
same it gives no line at all, rather than a wrong one.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

Steps = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]|#[^\n]*)*")  # between statements and inside arrays
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# The delimiters of multi-line strings may have two more quotes before them, which belong inside.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d \d\d:[0-9:.Zz+-]+|[^\s,\]}#]+")


class _LostError(Exception):
    """The text is not what the scanner takes for TOML."""


def locate(text: str) -> dict[Steps, int]:
    """Path → line (from 1) of each key, table and array element; empty where it can't be told.

    A table has the line of its header, or of the first key that made it.
    """
    try:
        return _Scanner(text.replace("\r\n", "\n")).scan()
    except (_LostError, RecursionError, tomllib.TOMLDecodeError):
        return {}


class _Scanner:
    """One walk through a text; `position` is where it stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.found: dict[Steps, int] = {}
        self.line_ends = [match.start() for match in re.finditer("\n", text)]
        self.array_lengths: dict[Steps, int] = {}  # of the arrays of tables met so far

    def scan(self) -> dict[Steps, int]:
        table: Steps = ()
        while True:
            self._skip(_GAP)
            if self.position >= len(self.text):
                return self.found
            if self.text.startswith("[", self.position):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Steps:
        """`[a.b]` or `[[a.b]]`; returns the path of the table that it opens."""
        line = self._line()
        is_array = self._take("[[")
        if not is_array:
            self._expect("[")
        keys = self._keys()
        self._expect("]]" if is_array else "]")
        table: Steps = ()
        for key in keys[:-1]:
            table = self._latest((*table, key), line)
        table = (*table, keys[-1])
        if is_array:
            self.found.setdefault(table, line)
            length = self.array_lengths.get(table, 0)
            self.array_lengths[table] = length + 1
            table = (*table, length)
        self.found[table] = line
        return table

    def _latest(self, table: Steps, line: int) -> Steps:
        """A table on the way to another; of an array of tables its latest element."""
        self.found.setdefault(table, line)
        length = self.array_lengths.get(table)
        return table if length is None else (*table, length - 1)

    def _pair(self, table: Steps) -> None:
        line = self._line()
        for key in self._keys():
            table = (*table, key)
            self.found.setdefault(table, line)
        self._expect("=")
        self._skip(_BLANK)
        self._value(table)

    def _keys(self) -> list[str]:
        """A dotted key, with the blanks around it."""
        keys = []
        while True:
            self._skip(_BLANK)
            keys.append(self._key())
            self._skip(_BLANK)
            if not self._take("."):
                return keys

    def _key(self) -> str:
        if self.text[self.position : self.position + 1] in ('"', "'"):
            quoted = self._match(_STRING)
            return str(tomllib.loads(f"key = {quoted}")["key"])
        return self._match(_BARE_KEY)

    def _value(self, path: Steps) -> None:
        start = self.text[self.position : self.position + 1]
        if start == "[":
            self._array(path)
        elif start == "{":
            self._inline_table(path)
        elif start in ('"', "'"):
            self._match(_STRING)
        else:
            self._match(_SCALAR)

    def _array(self, path: Steps) -> None:
        self._expect("[")
        index = 0
        while True:
            self._skip(_GAP)
            if self._take("]"):
                return
            self.found[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1
            self._skip(_GAP)
            if not self._take(","):
                self._expect("]")
                return

    def _inline_table(self, path: Steps) -> None:
        """Gaps rather than blanks, as TOML 1.1 allows line breaks and a last comma here."""
        self._expect("{")
        while True:
            self._skip(_GAP)
            if self._take("}"):
                return
            self._pair(path)
            self._skip(_GAP)
            if not self._take(","):
                self._expect("}")
                return

    def _line(self) -> int:
        return bisect_left(self.line_ends, self.position) + 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def _take(self, token: str) -> bool:
        if not self.text.startswith(token, self.position):
            return False
        self.position += len(token)
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise _LostError

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            raise _LostError
        self.position = match.end()
        return match[0]
