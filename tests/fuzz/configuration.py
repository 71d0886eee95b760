"""gateway.toml, mutated: a valid configuration or a clear error, and never a secret.

    python -m tests.fuzz.configuration --seconds 60 --seed 1

Whatever stands in the file (and in a `keys_file`, in variables, in files of secrets): `load`
returns settings that can be described, compiled and decoded, or raises `ConfigError`, whose
problems name the file, the line where there is one, and what is wrong, each in one printable line.
No text takes it long, and none of the secrets is in what it says.
"""

from __future__ import annotations

import atexit
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import msgspec

from aigw.config import ConfigError, Problem, Settings, describe, load, schema
from aigw.config.readers import options_of
from aigw.memory import Memory
from aigw.policy import compile_policy, load_policy, retain_rows
from tests.fuzz.bulk import Counts, main
from tests.running import ROOT

NEEDLE = "S3CRET"
DIGITS = "7355608"  # a secret that somebody wrote as a number
MOST_S = 5.0  # of CPU for one file; the largest here takes a hundredth of it
SECRET_OPTIONS = {"key", "keys", "credentials", "admin_token"}

# A value of these may be repeated; a url may hold a password.
OPEN_OPTIONS = {
    name
    for kind in vars(schema).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    for name in options_of(kind)
} - {*SECRET_OPTIONS, "urls"}

SECRETS = """
[[keys]]
name = "rotating"
keys = ["new-S3CRET", "${OLD_KEY}", "file:key"]
rpm = 60.5
burst = 3
max_parallel_requests = 4
routes = ["/v1", "/vllm"]
expires = 2030-01-31T10:00:00Z
[[keys]]
name = "plain"
key = "plain-S3CRET"
[[upstreams]]
name = "vllm"
urls = ["http://10.0.0.5:8000", "https://[::1]:8443/base"]
credentials = ["sk-S3CRET", "${PROVIDER:-sk-default-S3CRET}"]
credential_header = "api-key"
health = { path = "/health", expect = "200-399", interval = "2s", timeout = "500ms" }
pool = { keep_alive = "4s", max_connections = 5 }
[[routes]]
path = "/vllm"
targets = [{ upstream = "vllm" }]
strip_prefix = "/vllm"
cors_origins = ["https://app.example"]
timeouts = { first_byte = "1h", idle = "1m" }
rps = 5
"""
KEYS_FILE = '[[keys]]\nname = "filed"\nkey = "filed-S3CRET"\n'
ENVIRON = {
    "OLD_KEY": "old-S3CRET",
    "PROVIDER": "sk-variable-S3CRET",
    "EMPTY": "",
    "ODD": "a S3CRET\n\udcff\0",
    "OPENAI_API_KEY": "sk-openai-S3CRET",
}
VALUES = [
    *(
        "true",
        "false",
        "0",
        "-1",
        "1",
        "7355608",
        "1e400",
        "-0.0",
        "nan",
        "inf",
        "0x7fffffffffffffff",
    ),
    *("1_0", "9" * 30, "9" * 5000, "1e-9", "2030-01-31", "1969-12-31", "9999-12-31T23:59:60Z"),
    *("23:59:59", "0001-01-01", "2030-02-30", '""', '"other"', '"/"', '"/v1"', '"//"', '"/../v1"'),
    *('"10s"', '"0s"', '"1d"', '"999d"', '"1KiB"', '"0B"', '"1.5"', '"9999999999TiB"', '"<500"'),
    *(
        '"127.0.0.1:8080"',
        '"0.0.0.0:1"',
        '"[::]:0"',
        '"unix:/tmp/x"',
        '"unix:"',
        '":80"',
        '"a:b:c"',
    ),
    *(
        '"https://a"',
        '"http://u:S3CRET@a"',
        '"http://a?key=S3CRET"',
        '"http://[::1"',
        '"http://a:0"',
    ),
    *('"${OLD_KEY}"', '"${ABSENT}"', '"${ABSENT:-x}"', '"${"', '"$${"', '"${EMPTY}"', '"${ODD}"'),
    *(
        '"${OLD_KEY:-${PROVIDER}}"',
        '"file:key"',
        '"file:${OLD_KEY}"',
        '"file:absent"',
        '"file:."',
        '"file:odd"',
        '"file:"',
    ),
    *(
        '"file:\\u0000"',
        '"sha256:S3CRET"',
        f'"sha256:{"a" * 64}"',
        '"client"',
        '"openai"',
        '"vllm"',
    ),
    *('"k\\u00e9y-S3CRET"', '"a b S3CRET"', f'"{"S3CRET" * 20000}"', '"\\u0000"', '"\\U0010ffff"'),
    *('"\\u2028"', "'''a\nS3CRET'''", '"""S3CRET\\\n   x"""', "[]", "[[]]", "{}", '["S3CRET", 1]'),
    *('["a", "a"]', "[1, 2]", "[{}]", "{ a = 1 }", "{ upstream = 1 }", '{ path = "S3CRET" }'),
    *("[" * 500, "{a=" * 300, "[" * 100 + "]" * 100, '"S3CRET', "'S3CRET", "S3CRET", '"\\xS3CRET"'),
    *('"keys.toml"', '"."', '"odd"', '"key"', '"absent/x"', '"10.0.0.0/8"', '"10.0.0.1/8"'),
]
LINES = [
    *(
        "[keys]",
        "[[listen]]",
        "[a.b.c]",
        "[[keys]]",
        "[[routes]]",
        "[[upstreams]]",
        "[",
        "]]",
        "[[",
        "=",
    ),
    *("[upstreams.pool]", "[listen.admin]", "[[keys.key]]", "[timeouts]", "[timeouts]", '["S"]'),
    *("kye = 'S3CRET'", "rpz = 5", "a.b = 1", '"" = 1', '"a\\nb" = 1', "key.x = 'S3CRET'", "= 5"),
    *(
        "keys_file = 'keys.toml'",
        "keys_file = 'odd'",
        "\0",
        "\ufeff",
        "\r",
        "\u2028x = 1",
        "# S3CRET",
    ),
    *("credentials = 'S3CRET'", "key = 7355608", "admin_token = 'S3CRET'", "admin_token = 7355608"),
    *("x = " + "{x = " * 50 + "1" + "}" * 50, ("a" * 300 + ".") * 40 + "a = 1"),
]
CHARS = [
    '"',
    "'",
    "\\",
    "=",
    "[",
    "]",
    "{",
    "}",
    "#",
    "\n",
    "\t",
    " ",
    ",",
    ".",
    "-",
    "_",
    "$",
    "0",
    "é",
]
VARIABLE = re.compile(r"\$\{(\w+)")
PAIR = re.compile(r"^(?:# )?([a-z_]+) = (.*)$")


@cache
def folder() -> Path:
    """Where the files lie that a configuration may name."""
    made = Path(tempfile.mkdtemp(prefix="aigw-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    (made / "key").write_text("filed-S3CRET\n")
    (made / "keys.toml").write_text(KEYS_FILE)
    (made / "odd").write_bytes(b"\xff\xfeS3CRET\0")
    return made


@cache
def bases() -> tuple[str, ...]:
    """Configurations to begin with: the default, all its options in use, and one with secrets."""
    default = (ROOT / "gateway.toml").read_text()
    in_use = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", default)
    token = '[listen]\nadmin = "0.0.0.0:0"\nadmin_token = "admin-S3CRET"\n'
    return default, in_use, default + SECRETS, token + SECRETS + 'keys_file = "keys.toml"\n'


@cache
def memory() -> Memory:
    return Memory.create(1)


def make(random: Random) -> str:
    """A configuration file, changed in some places."""
    if random.random() < 0.05:
        return "".join(random.choice(LINES + VALUES + CHARS) for _ in range(random.randrange(30)))
    lines = random.choice(bases()).split("\n")
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 8))):
        random.choice(CHANGES)(random, lines)
    text = "\n".join(lines)
    for _ in range(random.choice((0, 0, 0, 0, 1, 3))):
        at = random.randrange(len(text) + 1)
        text = text[:at] + random.choice([*CHARS, ""]) + text[at + random.randrange(3) :]
    if random.random() < 0.03:
        text = text[: random.randrange(len(text) + 1)]
    return text.replace("\n", "\r\n") if random.random() < 0.05 else text


def _another_value(random: Random, lines: list[str]) -> None:
    pairs = [at for at, line in enumerate(lines) if PAIR.match(line)]
    if pairs:
        at = random.choice(pairs)
        name = lines[at].partition("=")[0].removeprefix("# ")
        lines[at] = f"{name}= {random.choice(VALUES)}"


def _another_name(random: Random, lines: list[str]) -> None:
    pairs = [at for at, line in enumerate(lines) if PAIR.match(line)]
    if len(pairs) > 1:
        at, other = random.sample(pairs, 2)
        name = lines[other].partition("=")[0].removeprefix("# ").strip()
        if name in SECRET_OPTIONS or NEEDLE not in lines[at]:
            lines[at] = f"{name} ={lines[at].partition('=')[2]}"


def _one_more(random: Random, lines: list[str]) -> None:
    lines.insert(random.randrange(len(lines) + 1), random.choice(LINES))


def _one_less(random: Random, lines: list[str]) -> None:
    if lines:
        del lines[random.randrange(len(lines))]


def _twice(random: Random, lines: list[str]) -> None:
    if lines:
        lines.insert(random.randrange(len(lines)), random.choice(lines))


def _swapped(random: Random, lines: list[str]) -> None:
    if lines:
        one, other = random.randrange(len(lines)), random.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]


def _misspelt(random: Random, lines: list[str]) -> None:
    pairs = [at for at, line in enumerate(lines) if PAIR.match(line)]
    if pairs:
        at = random.choice(pairs)
        cut = random.randrange(len(lines[at].partition("=")[0]))
        lines[at] = lines[at][:cut] + random.choice("abc_-. ") + lines[at][cut + 1 :]


CHANGES = [_another_value, _another_value, _another_name, _one_more, _one_less, _twice, _swapped]
CHANGES.append(_misspelt)


def attempt(random: Random, counts: Counts) -> None:
    text = make(random)
    data = text.encode(errors="surrogateescape")
    if random.random() < 0.02:
        data = random.randbytes(8) + data
    counts[check(data)] += 1


def check(data: bytes) -> str:
    """What became of a file of these bytes."""
    file = folder() / "gateway.toml"
    file.write_bytes(data)
    began_s = time.process_time()
    try:
        settings = load(file, ENVIRON)
    except ConfigError as error:
        for problem in error.problems:
            _check_problem(problem, data)
        if not _may_be_shown(data):
            _check_hidden(str(error), data)
            _check_hidden(repr(error), data)
        return "refused"
    finally:
        assert time.process_time() - began_s < MOST_S, "took too long"
    _check_settings(settings, data)
    return "valid"


def _check_problem(problem: Problem, data: bytes) -> None:
    assert Path(problem.file).parent == folder(), problem
    assert problem.message.strip(), problem
    assert str(problem).isprintable(), problem
    # What is missing altogether has no line, nor has a text that is no text.
    is_absent = "there must be at least one" in problem.message or not problem.option
    assert problem.line is not None or is_absent or _is_absent(problem, data), problem
    assert (
        problem.line is None
        or 1 <= problem.line <= data.count(b"\n") + 1
        or (Path(problem.file).name != "gateway.toml")
    ), problem


def _is_absent(problem: Problem, data: bytes) -> bool:
    """Is it an option that the file leaves at its default?"""
    return problem.option.split(".")[0].encode() not in data


def _may_be_shown(data: bytes) -> bool:
    """Does a secret stand where a name, a path or the like belongs, or for an option's name?"""
    try:
        raw = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError):
        return False
    return any(_holds(part) for path, value in _leaves(raw, ()) for part in _shown(path, value))


def _shown(path: tuple[str, ...], value: object) -> list[object]:
    parts: list[object] = list(path)
    if path and path[-1] in OPEN_OPTIONS:
        parts += [value, *(ENVIRON.get(name, "") for name in VARIABLE.findall(str(value)))]
    elif isinstance(value, str) and value.startswith("file:"):
        parts.append(value)  # as it is written: its variables stay hidden
    return parts


def _holds(part: object) -> bool:
    return NEEDLE in str(part) or DIGITS in str(part)


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value


def _check_hidden(said: str, data: bytes) -> None:
    for needle in (NEEDLE, DIGITS):
        at = said.find(needle)
        assert at < 0, f"says {said[max(0, at - 200) : at + 40]!r} of {data!r}"


def _check_settings(settings: Settings, data: bytes) -> None:
    told = describe(settings)
    blob = compile_policy(settings, memory(), time.monotonic())
    policy = load_policy(blob)
    retain_rows(memory(), policy)
    assert policy.keys
    assert policy.routes
    if not _may_be_shown(data):
        for said in (told, repr(settings), str(settings)):
            _check_hidden(said, data)


if __name__ == "__main__":
    sys.exit(main(attempt, "gateway.toml, mutated.", "tests.fuzz.configuration"))
