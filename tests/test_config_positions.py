"""The second TOML scanner: the same paths as tomllib, each with its line."""

from __future__ import annotations

import datetime
import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw.config.positions import Steps, locate


def paths(value: object, steps: Steps = ()) -> set[Steps]:
    """Every path of what tomllib returns."""
    if isinstance(value, dict):
        parts: list[tuple[str | int, object]] = list(value.items())
    elif isinstance(value, list):
        parts = list(enumerate(value))
    else:
        return set()
    found = {(*steps, step) for step, _ in parts}
    for step, part in parts:
        found |= paths(part, (*steps, step))
    return found


NASTY = [
    "",
    "\n\n# only a comment",
    "a = 1",
    "a = 1 # [b]\n[c]",
    "a.b.c = 1\na.b.d = 2",
    " a . b\t= 1\n",
    '"a.b".c = 1\n\'d e\' = 2\n"" = 3\n',
    '"\\u00e9\\"]" = 1\n["x]#"]\ny = 1',
    "[[a]]\n[[a]]\nb = 1\n[[a.c]]\n[[a.c]]\nd = 1\n[[a]]\n[[a.c]]\n[a.c.e]\nf = 1",
    "[a.b]\nc = 1\n[a]\nd = 2",
    "[ a . 'b' ]\nc = 1\n[[ d . e ]]\nf = 1",
    "a = [\n 1, # one ]\n [2, 3],\n\n 4,\n]\nb = 1",
    "a = []\nb = {}\nc = [[], [[]], {}]",
    "a = { b = 1, c.d = [ { e = 2 }, { 'f g' = 3 } ] }\nh = 1",
    'a = """\nb = 1\n[c]\n"""\nd = 2',
    'a = """x\\""" y = 1\n"""\nd = 2',
    'a = """x"""""\nb = 1',
    "a = '''x'''''\nb = 1",
    "a = '''\n# \\'''\nb = 1",
    "a = '\\'\nb = \"\\\\\"\nc = 1",
    'a = ["]", "#", \'"\', """\n]""", "\\""]\nb = 1',
    "a = 1979-05-27 07:32:00\nb = 1979-05-27T07:32:00.5+01:00\nc = 07:32:00\nd = 1979-05-27 # x",
    "a = [1979-05-27 07:32:00Z,1979-05-27]\nb = 1",
    "a = +1_000.5e-3\nb = -inf\nc = nan\nd = 0xdead_beef",
    "a = 1\r\nb = [\r\n1,\r\n2]\r\n[c]\r\nd = 1\r\n",
    "1.2 = 3\n-_ = 4\n1234 = 5",
    "a = {b = {c = {d = [1, 2]}}}\n[e.f.g]\n[e.f.h]\n[e.i]",
    "a=1\n[b]#c\nd=2#e",
    "[[x]]\ny.z = 1\n[x.y2.z]\nq = 1\n[[x]]",
]


@pytest.mark.parametrize("text", NASTY)
def test_paths_of_nasty_texts(text: str) -> None:
    assert set(locate(text)) == paths(tomllib.loads(text))


def test_lines() -> None:
    text = (
        "top = 1\n"
        "\n"
        "[[keys]]  # first\n"
        "name = 'a'\n"
        "[[keys]]\n"
        "rps.x = [\n"
        "  1,\n"
        "  { y = 2 },\n"
        "]\n"
        '[a."b c".d]\n'
        'text = """\n'
        "no = 1\n"
        '"""\n'
        "last = 1\n"
        "[a]\n"
    )
    assert locate(text) == {
        ("top",): 1,
        ("keys",): 3,
        ("keys", 0): 3,
        ("keys", 0, "name"): 4,
        ("keys", 1): 5,
        ("keys", 1, "rps"): 6,
        ("keys", 1, "rps", "x"): 6,
        ("keys", 1, "rps", "x", 0): 7,
        ("keys", 1, "rps", "x", 1): 8,
        ("keys", 1, "rps", "x", 1, "y"): 8,
        ("a",): 15,
        ("a", "b c"): 10,
        ("a", "b c", "d"): 10,
        ("a", "b c", "d", "text"): 11,
        ("a", "b c", "d", "last"): 14,
    }


@pytest.mark.parametrize(
    "text",
    [
        "=",
        "a",
        "a =",
        "[a",
        "[[a]",
        "a = [1",
        'a = "x',
        "a = {b = 1",
        "a = " + "[" * 9999,
    ],
)
def test_lost_means_no_line(text: str) -> None:
    assert locate(text) == {}


# Documents drawn as data, then written in a drawn style: inline, dotted, as sections, as arrays of
# tables, with gaps and comments anywhere.  The writer notes the line of each value that it writes.

NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4),
)
TEXTS = st.text(st.sampled_from("ab \"'\\#[]{}=,.\n\té"), max_size=8)
SCALARS = st.one_of(
    st.integers(-(2**60), 2**60),
    st.booleans(),
    st.floats(allow_nan=False, width=32),
    st.dates(min_value=datetime.date(1000, 1, 1)),
    st.datetimes(min_value=datetime.datetime(1000, 1, 1)).map(
        lambda when: when.replace(microsecond=0)
    ),
    TEXTS,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(NAMES, inner, max_size=4),
        st.lists(st.dictionaries(NAMES, inner, max_size=3), min_size=1, max_size=3),
    ),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=5)


class Writer:
    """Writes data as TOML in a style that hypothesis draws."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Steps, int] = {}

    def pick(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def put(self, text: str) -> None:
        self.text += text

    def mark(self, steps: Steps) -> None:
        self.lines[steps] = self.text.count("\n") + 1

    def gap(self) -> None:
        self.put(self.pick("", "", " ", "\n", " # ] } = \" '''\n", "\t\n\n"))

    def blank(self) -> None:
        self.put(self.pick("", " ", "\t "))

    def key(self, *names: str) -> None:
        for index, name in enumerate(names):
            if index:
                self.put(".")
            self.blank()
            self.put(self.quoted(name))
            self.blank()

    def quoted(self, name: str) -> str:
        styles = [json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")]
        if "'" not in name:
            styles.append(f"'{name}'")
        if name and name.isascii() and name.replace("-", "").replace("_", "").isalnum():
            styles.append(name)
        return self.pick(*styles)

    def table(self, table: dict[str, Any], steps: Steps, header: tuple[str, ...]) -> None:
        """Plain pairs first, then what gets a header of its own."""
        sections = []
        for name, value in table.items():
            is_tables = (
                bool(value)
                and isinstance(value, list)
                and all(isinstance(item, dict) for item in value)
            )
            styles = ["inline"]
            if isinstance(value, dict):
                styles += ["section", "section"] + (["dotted"] if value else [])
            if is_tables:
                styles += ["sections", "sections"]
            style = self.pick(*styles)
            if style in ("section", "sections"):
                sections.append((name, value, style))
            elif style == "dotted":
                for inner, part in value.items():
                    self.pair((name, inner), part, (*steps, name, inner))
            else:
                self.pair((name,), value, (*steps, name))
        for name, value, style in sections:
            names = (*header, name)
            if style == "section":
                self.header("[", "]", names, (*steps, name))
                self.table(value, (*steps, name), names)
                continue
            for index, item in enumerate(value):
                self.header("[[", "]]", names, (*steps, name, index))
                self.table(item, (*steps, name, index), names)

    def header(self, start: str, end: str, names: tuple[str, ...], steps: Steps) -> None:
        self.mark(steps)
        self.put(start)
        self.key(*names)
        self.put(end)
        self.end_line()

    def pair(self, names: tuple[str, ...], value: Any, steps: Steps) -> None:
        self.blank()
        self.mark(steps)
        self.key(*names)
        self.put("=")
        self.blank()
        self.value(value, steps)
        self.end_line()

    def end_line(self) -> None:
        self.put(self.pick("\n", " # [x]\n", "\n\n\t\n", "\r\n"))

    def value(self, value: Any, steps: Steps) -> None:
        if isinstance(value, dict):
            self.put("{")
            for index, (name, part) in enumerate(value.items()):
                self.put("," if index else "")
                self.mark((*steps, name))
                self.key(name)
                self.put("=")
                self.blank()
                self.value(part, (*steps, name))
                self.blank()
            self.put("}")
        elif isinstance(value, list):
            self.array(value, steps)
        elif isinstance(value, str):
            self.put(self.string(value))
        elif isinstance(value, bool):
            self.put("true" if value else "false")
        elif isinstance(value, datetime.datetime):
            self.put(value.isoformat(sep=self.pick(" ", "T")))
        elif isinstance(value, datetime.date):
            self.put(value.isoformat())
        else:
            self.put(repr(value))

    def array(self, items: list[Any], steps: Steps) -> None:
        self.put("[")
        for index, item in enumerate(items):
            self.gap()
            self.mark((*steps, index))
            self.value(item, (*steps, index))
            self.gap()
            if index < len(items) - 1 or self.draw(st.booleans()):
                self.put(",")
        self.gap()
        self.put("]")

    def string(self, text: str) -> str:
        escaped = json.dumps(text, ensure_ascii=False)
        styles = [escaped, f'"""\n{escaped[1:-1]}"""', f'"""\\\n  {escaped[1:-1]}"""']
        if "'" not in text:
            styles.append(f"'''\n{text}'''")
            if "\n" not in text:
                styles.append(f"'{text}'")
        if not text.endswith('"') and '""' not in text and "\\" not in text:
            styles.append(f'"""\n{text}"""')
        return self.pick(*styles)


@st.composite
def written(draw: Any) -> Writer:
    writer = Writer(draw)
    writer.gap()
    writer.table(draw(DOCUMENTS), (), ())
    return writer


@settings(max_examples=80, deadline=None)
@given(written())
def test_paths_and_lines_of_any_document(writer: Writer) -> None:
    expected = paths(tomllib.loads(writer.text))
    found = locate(writer.text)
    assert set(found) == expected
    assert {steps: found[steps] for steps in writer.lines} == writer.lines
