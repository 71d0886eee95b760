"""Addresses, URLs, paths, origins and header fields: what is taken, and what is refused why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw.config import grammar
from aigw.config.problems import OptionError

# Function → what it takes (and what it makes of it).
ACCEPTED: dict[Callable[[str], str], dict[str, str]] = {
    grammar.address: {
        "127.0.0.1:8080": "127.0.0.1:8080",
        "0.0.0.0:0": "0.0.0.0:0",
        "[::1]:080": "[::1]:80",
        "localhost:65535": "localhost:65535",
        "unix:/run/aigw.sock": "unix:/run/aigw.sock",
    },
    grammar.url: {
        "https://api.openai.com": "https://api.openai.com",
        "https://API.openai.com/": "https://api.openai.com",
        "HTTP://10.0.0.1:80": "http://10.0.0.1",
        "https://h:443/base/": "https://h/base",
        "http://h:443": "http://h:443",
        "http://[::1]:8000/v1beta/openai": "http://[::1]:8000/v1beta/openai",
        "http://under_score.internal:1": "http://under_score.internal:1",
    },
    grammar.path: {
        text: text for text in ("/", "/v1", "/v1/chat.completions", "/a/..b/c...", "/~a:b@c;d=e,f")
    },
    grammar.prefix: {"": "", "/openai": "/openai"},
    grammar.target: {text: text for text in ("", "/", "/health", "/v1/models?a=b%20&c=/d?")},
    grammar.network: {
        "10.0.0.0/8": "10.0.0.0/8",
        "10.1.2.3": "10.1.2.3/32",
        "fd00::/8": "fd00::/8",
        "::1": "::1/128",
        "unix:": "unix:",
    },
    grammar.origin: {
        "*": "*",
        "https://app.example.com": "https://app.example.com",
        "http://localhost:3000": "http://localhost:3000",
        "http://[::1]:3000": "http://[::1]:3000",
        "https://h:80": "https://h:80",
        "tauri://localhost": "tauri://localhost",
    },
    grammar.field_name: {text: text for text in ("", "api-key", "X-Api_Key", "Authorization")},
    grammar.name: {text: text for text in ("user1", "Müller & Söhne", "a" * 128, "x.y:z/1")},
}
# Function → what it refuses → a part of what it says.
REFUSED: dict[Callable[[str], str], dict[str, str]] = {
    grammar.address: {
        "": "host:port",
        "8080": 'add a port such as ":8080"',
        ":8080": "needs a host",
        "*:8080": "needs a host",
        "127.0.0.1": "add a port",
        "127.0.0.1:": "port must be",
        "127.0.0.1:x": "port must be",
        "127.0.0.1:65536": "port must be",
        "127.0.0.1:-1": "port must be",
        "127.0.0.1:٣": "port must be",
        "300.0.0.1:80": "IPv4",
        "1.2.3:80": "IPv4",
        "::1:8080": "in brackets",
        "[::g]:80": "IPv6",
        "[127.0.0.1]:80": "IPv6",
        "a b:80": "DNS name",
        "-a:80": "DNS name",
        "é:80": "DNS name",
        "a..b:80": "DNS name",
        "http://h:80": "host:port",
        "unix:": "absolute path",
        "unix:run.sock": "absolute path",
        "unix:/run/": "absolute path",
        "unix:/" + "a" * 107: "at most 107",
        "unix:/a\nb": "absolute path",
    },
    grammar.url: {
        "": "must begin with",
        "api.openai.com": "must begin with",
        "ftp://h": "scheme",
        "https://": "needs a host",
        "https:///v1": "needs a host",
        "https://:443": "needs a host",
        "https://u@h": "credentials",
        "https://u:p@h/": "credentials",
        "https://h?": "query",
        "https://h/#": "query",
        "https://h:0": "port",
        "https://h:": "port",
        "https://h:99999": "port",
        "https://h h": "DNS name",
        "https://h/a b": "characters",
        "https://h/../b": "segment",
        "https://h//b": '"//"',
        "https://h/%2e": "percent",
        "https://h\n": "DNS name",
        "https://[::1": "needs a host",
        "https://[::1]x": "needs a host",
        "https://bücher.de": "xn--",
        "https://h\\@evil": "credentials",
        "https://h\\evil": "DNS name",
    },
    grammar.path: {
        "": "must begin",
        "v1": "must begin",
        "/v1/": 'write "/v1"',
        "//": 'write "/"',
        "/a//b": '"//"',
        "/a/./b": "segment",
        "/a/..": "segment",
        "/a?b": "query",
        "/a#b": "query",
        "/a b": "characters",
        "/a%20b": "percent",
        "/é": "characters",
        "/a\n": "characters",
        "/a\\b": "characters",
        "*": "must begin",
    },
    grammar.prefix: {"/": 'must be ""', "v1": "must begin", "/v1/": "must not end"},
    grammar.target: {
        "health": "must be a path",
        "/a b": "must be",
        "/a#b": "must be",
        "/\r\n": "must",
    },
    grammar.network: {
        "": "network",
        "10.0.0.1/8": 'did you mean "10.0.0.0/8"',
        "10.0.0.0/33": "network",
        "localhost": "network",
        "unix:/x": "network",
        "all": "network",
    },
    grammar.origin: {
        "": "origin",
        "app.example.com": "origin",
        "https://app.example.com/": "slash",
        "https://app.example.com/x": "without path",
        "https://App.example.com": "lower case",
        "HTTPS://app.example.com": "origin",
        "https://h:443": "default port",
        "https://u@h": "host",
        "null": "origin",
        "https://*.example.com": "host",
    },
    grammar.route: {"/v1/*": "everything below", "*": "everything below", "v1": "begin"},
    grammar.field_name: {
        "a b": "field name",
        "a:": "field name",
        "é": "field name",
        "a\n": "field name",
        "Host": "steers",
        "content-length": "steers",
        "CONNECTION": "steers",
        "transfer-encoding": "steers",
    },
    grammar.name: {
        "": "empty",
        " a": "printable",
        "a\n": "printable",
        "a\x1b[2J": "printable",
        "a" * 129: "longer",
        "other": "metrics",
    },
}


@pytest.mark.parametrize(
    ("read", "text"), [(read, text) for read, cases in ACCEPTED.items() for text in cases]
)
def test_accepted(read: Callable[[str], str], text: str) -> None:
    assert read(text) == ACCEPTED[read][text]
    assert read(read(text)) == read(text)


@pytest.mark.parametrize(
    ("read", "text"), [(read, text) for read, cases in REFUSED.items() for text in cases]
)
def test_refused(read: Callable[[str], str], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(text)
    assert REFUSED[read][text] in str(caught.value)


@given(
    st.sampled_from(list(ACCEPTED)),
    st.text(st.sampled_from("ahtps:/@.[]1%?#\\ -*é\n\x00"), max_size=12),
)
def test_nothing_else_is_raised_and_nothing_unsafe_passes(
    read: Callable[[str], str], text: str
) -> None:
    for candidate in (
        text,
        f"https://{text}",
        f"/{text}",
        f"unix:{text}",
        f"h:{text}",
        f"[{text}]:1",
    ):
        try:
            passed = read(candidate)
        except OptionError:
            continue
        assert passed.isprintable()


def test_local_addresses() -> None:
    local = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/x"]
    assert all(grammar.is_local(address) for address in local)
    other = ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "localhost.example.com:1"]
    assert not any(grammar.is_local(address) for address in other)


def test_within_and_prefixes_agree() -> None:
    paths = ["/", "/v1", "/v1/a", "/v1/a/b", "/v10", "/a/b"]
    for path in paths:
        expected = [prefix for prefix in paths if grammar.within(path, prefix)]
        assert [prefix for prefix in grammar.prefixes(path) if prefix in paths] == expected
    assert list(grammar.prefixes("")) == []
