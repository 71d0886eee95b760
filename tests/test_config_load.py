"""Whole files: what is wrong in them is told with file, line, option and cure, all at once."""

from __future__ import annotations

import random
import time
import tomllib
from pathlib import Path

import pytest
from config_files import KEY, ROUTE, UPSTREAM, WORKING, loaded, said

from aigw.config import ConfigError, Problem, load, load_admin, override
from aigw.errors import StartError

GATEWAY_TOML = Path(__file__).parent.parent / "gateway.toml"

# What is written → the whole of what is said.
BROKEN = {
    "misspelt option": (
        KEY + "rsp = 10\n" + UPSTREAM + ROUTE,
        'gateway.toml:4: keys[0].rsp: unknown option, did you mean "rps"?',
    ),
    "misspelt section": (
        "[limit]\nheaders = 5\n" + WORKING,
        'gateway.toml:1: limit: unknown option, did you mean "limits"?',
    ),
    "option of a later version": (
        '[listen]\ntls = { cert = "a", key = "b" }\n' + WORKING,
        "gateway.toml:2: listen.tls: unknown option, known here: "
        "address, admin, admin_token, workers, trusted_proxies, proxy_protocol, "
        "backlog, send_buffer, receive_buffer",
    ),
    "option in an inline table": (
        KEY + UPSTREAM + '[[routes]]\npath = "/v1"\ntargets = [\n'
        '  { upstream = "openai", upstrem = 3 },\n]\n',
        'gateway.toml:10: routes[0].targets[0].upstrem: unknown option, did you mean "upstream"?',
    ),
    "dotted and quoted": (
        'listen."work ers" = 1\n' + WORKING,
        'gateway.toml:1: listen."work ers": unknown option, did you mean "workers"?',
    ),
    "number in quotes": (
        KEY + 'rps = "10"\n' + UPSTREAM + ROUTE,
        "gateway.toml:4: keys[0].rps: must be a number, not a string, write it without quotes",
    ),
    "boolean for a number": (
        "[limits]\nheaders = true\n" + WORKING,
        "gateway.toml:2: limits.headers: must be an integer, not a boolean",
    ),
    "string for a list": (
        KEY + '[[upstreams]]\nname = "openai"\nurls = "https://api.openai.com"\n' + ROUTE,
        "gateway.toml:6: upstreams[0].urls: must be a list, not a string, put it in [ ]",
    ),
    "table for an array of tables": (
        KEY.replace("[[", "[").replace("]]", "]") + UPSTREAM + ROUTE,
        "gateway.toml:1: keys: must be an array of tables: write [[keys]]",
    ),
    "array of tables for a table": (
        '[[listen]]\nadmin = ""\n' + WORKING,
        "gateway.toml:1: listen: must be a table, not a list: write [listen]",
    ),
    "duration without unit": (
        "[timeouts]\n\nhead = 10\n" + WORKING,
        'gateway.toml:3: timeouts.head: must be a string with a unit: "10s"? (ms, s, m, h, d)',
    ),
    "unknown unit of size": (
        '[limits]\nhead_bytes = "32kib"\n' + WORKING,
        'gateway.toml:2: limits.head_bytes: unknown unit of size, did you mean "32KiB"?',
    ),
    "misspelt word": (
        KEY + UPSTREAM + 'dialect = "openia"\n' + ROUTE,
        'gateway.toml:7: upstreams[0].dialect: must be one of "openai", "anthropic", "gemini", '
        '"none", did you mean "openai"?',
    ),
    "missing option": (
        '[[keys]]\nkey = "user1"\n' + UPSTREAM + ROUTE,
        "gateway.toml:1: keys[0].name: is missing: what logs and metrics show",
    ),
    "missing variable": (
        KEY + UPSTREAM + 'credentials = [\n  "${OPENAI_API_KEY}",\n]\n' + ROUTE,
        "gateway.toml:8: upstreams[0].credentials[0]: variable OPENAI_API_KEY is not set, set it",
    ),
    "missing secret file": (
        '[[keys]]\nname = "a"\nkey = "file:none"\n' + UPSTREAM + ROUTE,
        "gateway.toml:3: keys[0].key: can't read none: No such file or directory",
    ),
    "key and keys": (
        KEY + 'keys = ["a"]\n' + UPSTREAM + ROUTE,
        "gateway.toml:4: keys[0].keys: give either `key` or `keys`, not both",
    ),
    "rps and rpm": (
        KEY + "rps = 1\nrpm = 60\n" + UPSTREAM + ROUTE,
        "gateway.toml:5: keys[0].rpm: give either `rps` or `rpm`, not both",
    ),
    "short digest": (
        '[[keys]]\nname = "a"\nkey = "sha256:abc"\n' + UPSTREAM + ROUTE,
        'gateway.toml:3: keys[0].key: "sha256:" must be followed by 64 hexadecimal digits '
        "(see `aigw keys new`)",
    ),
    "same key twice": (
        KEY + KEY.replace('name = "user1"', 'name = "user2"') + UPSTREAM + ROUTE,
        "gateway.toml:4: keys[1]: has the same key as keys[0] (line 1)",
    ),
    "same name twice": (
        KEY + KEY.replace('key = "user1"', 'key = "user2"') + UPSTREAM + ROUTE,
        'gateway.toml:5: keys[1].name: "user1" is taken by keys[0].name (line 2)',
    ),
    "unknown upstream": (
        KEY + UPSTREAM + ROUTE.replace('"openai"', '"opnai"'),
        'gateway.toml:9: routes[0].targets[0].upstream: no upstream has the name "opnai", '
        'did you mean "openai"?',
    ),
    "unknown route": (
        KEY + 'routes = ["/v2"]\n' + UPSTREAM + ROUTE,
        'gateway.toml:4: keys[0].routes[0]: no route has the path "/v2", did you mean "/v1"?',
    ),
    "route behind a shorter one": (
        WORKING + ROUTE.replace("/v1", "/v1/messages"),
        'gateway.toml:11: routes[1].path: is never reached, routes[0] (line 7) takes "/v1" '
        "first: put the longer path first",
    ),
    "path given twice": (
        KEY + UPSTREAM.replace(".com", ".com/v1") + ROUTE,
        'gateway.toml:9: routes[0].targets[0].upstream: would ask "openai" for /v1/v1/…: '
        'take "/v1" off its url, or set strip_prefix = "/v1"',
    ),
    "two targets": (
        KEY + UPSTREAM + '[[routes]]\npath = "/v1"\n'
        'targets = [{ upstream = "openai" }, { upstream = "openai" }]\n',
        "gateway.toml:9: routes[0].targets: must be exactly one, such as "
        '[ { upstream = "openai" } ]',
    ),
    "no route": (
        KEY + UPSTREAM,
        "gateway.toml: routes: there must be at least one route: "
        "add [[routes]] with path and targets",
    ),
    "open admin listener": (
        '[listen]\nadmin = "0.0.0.0:8081"\n' + WORKING,
        "gateway.toml:2: listen.admin: is reachable from outside: set `admin_token`, "
        "or listen on 127.0.0.1",
    ),
    "invalid escape": (
        KEY + 'x = "\\q"\n',
        "gateway.toml:4: is not valid TOML: unescaped '\\' in a string, column 8",
    ),
    "unclosed string": (
        '[[keys]]\nname = "user1\nkey = "user1"\n',
        "gateway.toml:2: is not valid TOML: illegal character '\\n', column 14",
    ),
    "unclosed list": (
        WORKING + "a = [1,\n",
        "gateway.toml:10: is not valid TOML: a value or a closing bracket is missing, at the end",
    ),
    "a capital": (
        "a = True\n",
        "gateway.toml:1: is not valid TOML: not a value: write true or false in lower case, "
        "texts in straight quotes, column 5",
    ),
    "comma missing in a list": (
        "a = [1\n2]\n",
        "gateway.toml:2: is not valid TOML: a comma or the closing ] is missing, column 1",
    ),
    "comma missing in a table": (
        "a = { b = 1 c = 2 }\n",
        "gateway.toml:1: is not valid TOML: a comma or the closing } is missing, column 13",
    ),
    "a colon": (
        'address: "x"\n',
        'gateway.toml:1: is not valid TOML: no "=" after a key: write address = "…", TOML has no '
        "colon, column 8",
    ),
    "a key twice": (
        "[limits]\nheaders = 1\nheaders = 2\n",
        "gateway.toml:3: is not valid TOML: a key is given twice, column 12",
    ),
    "a key twice in braces": (
        "a = { b = 1, b = 2 }\n",
        "gateway.toml:1: is not valid TOML: b is given twice in the same braces, column 19",
    ),
    "an inner section twice": (
        "[a.b]\n[a.b]\n",
        "gateway.toml:2: is not valid TOML: [a.b] stands twice, put both into one, column 5",
    ),
    "section twice": (
        "[log]\n[limits]\n[log]\n" + WORKING,
        "gateway.toml:3: is not valid TOML: [log] stands twice, put both into one, column 5",
    ),
    "endless number": (
        "a = 1\nb = " + "1" * 5000,
        "gateway.toml:2: is not valid TOML: exceeds the limit (4300 digits) for integer string "
        "conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, expected = BROKEN[case]
    Path("gateway.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Path("gateway.toml"), {})
    assert str(caught.value) == expected


def test_a_working_file(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WORKING)
    assert settings.source == str(tmp_path / "gateway.toml")
    assert [key.name for key in settings.keys] == ["user1"]
    assert settings.routes[0].targets[0].upstream == "openai"


def test_all_faults_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = KEY + "rsp = 1\nburst = 0.5\n" + UPSTREAM + 'balance = "random"\n' + "[[routes]]\n"
    lines = said(tmp_path, text + "[log]\nlevel = 3\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["gateway.toml:4", "keys[0].rsp"],
        ["gateway.toml:5", "keys[0].burst"],
        ["gateway.toml:9", "upstreams[0].balance"],
        ["gateway.toml:10", "routes[0].path"],
        ["gateway.toml:10", "routes[0].targets"],
        ["gateway.toml:12", "log.level"],
    ]


def test_problems_are_typed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, KEY + "rsp = 1\n" + UPSTREAM + ROUTE)
    expected = Problem(
        str(tmp_path / "gateway.toml"), 4, "keys[0].rsp", 'unknown option, did you mean "rps"?'
    )
    assert caught.value.problems == (expected,)


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xef\xbb\xbf" + WORKING.replace("\n", "\r\n").encode() + b"rsp = 1\r\n")
    with pytest.raises(ConfigError, match=r"gateway\.toml:10: routes\[0\]\.rsp: "):
        load(file, {})


def test_files_that_are_no_text(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match="can't be read: No such file or directory"):
        load(missing, {})
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load(tmp_path, {})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"[log]\n# \xe9\n")
    with pytest.raises(ConfigError, match=":2: is not UTF-8 text"):
        load(latin, {})
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 10_000)
    with pytest.raises(ConfigError, match="is not valid TOML: nested too deeply"):
        load(deep, {})


def test_keys_file(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "secret").write_text("from-file\n")
    more = '[[keys]]\nname = "a"\nkey = "file:secret"\n[[keys]]\nname = "b"\nkey = "${B}"\n'
    (folder / "keys.toml").write_text(more)
    settings = loaded(tmp_path, 'keys_file = "more/keys.toml"\n' + WORKING, {"B": "from-env"})
    assert [(key.name, *(secret.reveal() for secret in key.keys)) for key in settings.keys] == [
        ("user1", "user1"),
        ("a", "from-file"),
        ("b", "from-env"),
    ]


KEYS_FILES = {
    '[[keys]]\nname = "user1"\nkey = "other"\n': (
        'keys.toml:2: keys[0].name: "user1" is taken by keys[0].name (gateway.toml:3)'
    ),
    '\n[[keys]]\nname = "a"\nkey = "user1"\n': (
        "keys.toml:2: keys[0]: has the same key as keys[0] (gateway.toml:2)"
    ),
    '[[keys]]\nname = "a"\nkey = "b"\nrsp = 1\n': (
        'keys.toml:4: keys[0].rsp: unknown option, did you mean "rps"?'
    ),
    "[listen]\nworkers = 1\n": "keys.toml:1: listen: unknown option, known here: keys",
    "[[keys\n": "keys.toml:1: is not valid TOML: expected ']]' at the end of an array declaration, "
    "column 7",
}


@pytest.mark.parametrize("text", KEYS_FILES)
def test_faults_in_the_keys_file_name_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(text)
    assert said(tmp_path, 'keys_file = "keys.toml"\n' + WORKING) == [KEYS_FILES[text]]


def test_a_missing_keys_file_and_other_faults(tmp_path: Path) -> None:
    assert said(tmp_path, 'keys_file = "keys.toml"\n[log]\nlevle = 1\n' + WORKING) == [
        "gateway.toml:1: keys_file: keys.toml can't be read: No such file or directory",
        'gateway.toml:3: log.levle: unknown option, did you mean "level"?',
    ]


def test_a_message_is_one_printable_line(tmp_path: Path) -> None:
    text = KEY + UPSTREAM + ROUTE.replace('"openai"', '"a\\n\\u001b[2J"') + '"x\\ny" = 1\n'
    assert said(tmp_path, text) == [
        'gateway.toml:9: routes[0].targets[0].upstream: no upstream has the name "a\\n\\x1b[2J"',
        'gateway.toml:10: routes[0]."x\\ny": unknown option, known here: rps, rpm, burst, path, '
        "targets, cors_origins, strip_prefix, timeouts",
    ]


def test_no_secret_is_ever_told(tmp_path: Path) -> None:
    secret = "S3CRET-do-not-show"
    (tmp_path / "secret").write_text(f"{secret} with a space")
    text = f"""
[listen]
admin_token = "{secret} x"
[[keys]]
name = "a"
key = "{secret}\\n"
[[keys]]
name = "b"
keys = ["{secret}", "{secret}", "sha256:{secret}", "file:secret", "${{X}}"]
[[upstreams]]
name = "openai"
urls = ["https://u:{secret}@h", "https://h?key={secret}", "{secret}"]
credentials = "{secret}"
[[upstreams]]
name = "other one"
urls = ["https://{secret}@h"]
credentials = ["{secret}\\u00e9", "${{{secret}"]
credential_header = "Host"
[[routes]]
path = "/v1"
targets = [{{ upstream = "openai" }}]
"""
    lines = said(tmp_path, text, {"X": f"\t{secret}"})
    assert len(lines) == 14
    assert secret not in "\n".join(lines)


def test_ten_thousand_keys_in_time(tmp_path: Path) -> None:
    many = "".join(
        f'[[keys]]\nname = "k{i}"\nkey = "aigw-{i:048x}"\nrps = 10\nburst = 20\n'
        for i in range(10_000)
    )
    begun = time.process_time()
    tomllib.loads(WORKING + many)
    parsed = time.process_time()
    settings = loaded(tmp_path, WORKING + many)
    assert len(settings.keys) == 10_001
    # Start has 2 s in all; what comes on top of tomllib must stay the smaller part.
    assert time.process_time() - parsed < 2 * (parsed - begun) + 0.2


TOKENS = [
    *(
        '"',
        "'",
        "[",
        "]",
        "{",
        "}",
        "=",
        "#",
        "[[",
        "]]",
        ",",
        ".",
        "\n",
        "\\",
        "\0",
        "é",
        " ",
        "x=1",
    ),
    *("-1", "0", "1e400", "nan", "inf", "9" * 30, "true", "2030-01-01", "07:00:00", "[]", "{}"),
    *("''", '".."', '"*"', '"client"', '"""', "${", "${A}", "file:", "unix:", "::", "/", "sha256:"),
    *("[keys]", "[[routes]]", "12d", "3KiB"),
]


def test_any_mutation_loads_or_says_why(tmp_path: Path) -> None:
    """Random edits of the reference: a byte, a line, a token; never anything but ConfigError."""
    text = GATEWAY_TOML.read_text()
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    rng = random.Random(20)
    accepted = 0
    for _ in range(600):
        mutant = text
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(mutant))
            end = start + rng.choice((0, 0, 1, 5, 60))
            new = rng.choice((rng.choice(TOKENS), rng.choice(lines), f"\n{rng.choice(lines)}\n"))
            mutant = mutant[:start] + new + mutant[end:]
        try:
            loaded(tmp_path, mutant)
            accepted += 1
        except ConfigError as error:
            assert all("\n" not in str(problem) for problem in error.problems)
            assert error.problems
    assert 0 < accepted < 600


def test_override(tmp_path: Path) -> None:
    settings = loaded(tmp_path, WORKING)
    assert override(settings, None, None) == settings
    changed = override(settings, "[::1]:9000", 3)
    assert (changed.listen.address, changed.listen.workers) == (("[::1]:9000",), 3)
    assert changed.listen.admin == settings.listen.admin
    for address, workers in ((":80", None), ("127.0.0.1:8081", None), (None, 0), (None, 100_000)):
        with pytest.raises(StartError, match="--"):
            override(settings, address, workers)


def test_the_admin_address_alone_is_read_from_a_file_that_is_wrong_otherwise(
    tmp_path: Path,
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[listen]\nadmin = "127.0.0.1:9"\nadmin_token = "${T}"\nrsp = 1\n[[keys]]\n')
    listen = load_admin(file, {"T": "token"})
    assert (listen.admin, listen.admin_token) == ("127.0.0.1:9", "token")
    with pytest.raises(ConfigError, match=r"gateway\.toml:3: listen\.admin_token: variable T"):
        load_admin(file, {})
    file.write_text("")
    assert load_admin(file, {}).admin == "127.0.0.1:8081"
