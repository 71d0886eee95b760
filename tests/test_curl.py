"""curl as a client of the real processes: the README's line to the letter, and what curl can do.

The configuration is the repository's own gateway.toml, with nothing replaced but addresses: the
provider's URL is the mock's, the listeners get free ports.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.running import (
    ROOT,
    RunningGateway,
    RunningMock,
    running_gateway,
    running_mock,
)

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

ADDRESSES = {
    '"https://api.openai.com"': '"MOCK"',
    '"127.0.0.1:8080"': '"127.0.0.1:{port}"',
    '"127.0.0.1:8081"': '"127.0.0.1:{admin_port}"',
}
# The line of the README; 8080 is the only thing that a test may replace.
README = """\
curl http://127.0.0.1:8080/v1/chat/completions \
-H "Authorization: Bearer OPENAI_API_KEY" -H "X-API-Key: user1" \
-H "Content-Type: application/json" \
-d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'"""
BODY = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'
KEYS = ("-H", "Authorization: Bearer sk-mine", "-H", "X-API-Key: user1")
CHAT = "/v1/chat/completions"
JSON = ("-H", "Content-Type: application/json", "-d")
STREAM = '{"model": "m", "messages": [], "stream": true}'


@pytest.fixture(scope="module")
def mock() -> Iterator[RunningMock]:
    with running_mock(ledger=4) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mock: RunningMock) -> Iterator[RunningGateway]:
    config = (ROOT / "gateway.toml").read_text()
    for ours, test in ADDRESSES.items():
        assert config.count(f" = {ours}") + config.count(f" = [{ours}]") == 1
        config = config.replace(ours, test)
    with running_gateway(config.replace("MOCK", mock.url)) as running:
        yield running
        said = running.stdout + running.stderr
    assert '"key":"user1"' in said  # the access log goes to stdout by default
    assert "sk-mine" not in said and "OPENAI_API_KEY" not in said


def curl(*arguments: str) -> bytes:
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, b""), arguments
    return done.stdout


def values(request: dict[str, Any], name: str) -> list[str]:
    return [value for field, value in request["headers"] if field.lower() == name]


def test_the_line_of_the_readme(mock: RunningMock, gateway: RunningGateway) -> None:
    line = README.replace("8080", str(gateway.port))
    done = subprocess.run(line, shell=True, capture_output=True, check=True, timeout=20)
    assert orjson.loads(done.stdout)["choices"][0]["message"]["content"].startswith("Hello")
    request = mock.ledger()[-1]
    assert (request["method"], request["target"]) == ("POST", CHAT)
    assert values(request, "authorization") == ["Bearer OPENAI_API_KEY"]
    assert values(request, "x-api-key") == []
    assert "user1" not in str(request)
    assert request["body_sha256"] == hashlib.sha256(BODY).hexdigest()


def test_without_the_gateways_key_nothing_goes_upstream(
    mock: RunningMock, gateway: RunningGateway
) -> None:
    before = mock.ledger()
    answer = curl("-i", f"{gateway.url}{CHAT}", *KEYS[:2], *JSON, "{}").decode()
    assert answer.startswith("HTTP/1.1 401 ")
    assert "\r\nx-aigw-error: invalid_api_key\r\n" in answer
    assert "sk-mine" not in answer
    assert mock.ledger() == before


def test_equal_to_curl_at_the_provider_itself(mock: RunningMock, gateway: RunningGateway) -> None:
    """The same request head but for `Host`, the same body."""
    asked = (CHAT, *KEYS[:2], *JSON, BODY.decode())
    direct = curl(mock.url + asked[0], *asked[1:])
    assert curl(gateway.url + asked[0], *KEYS[2:], *asked[1:]) == direct
    far, near = mock.ledger()[-2:]
    assert far["headers"].pop(0) == ["Host", f"127.0.0.1:{mock.port}"]
    assert near["headers"].pop(0) == ["Host", f"127.0.0.1:{mock.port}"]
    assert near == far


@pytest.mark.parametrize("options", [("--http1.0",), ("--http1.0", "-H", "Connection: keep-alive")])
def test_http_1_0(options: tuple[str, ...], mock: RunningMock, gateway: RunningGateway) -> None:
    asked = (*options, *KEYS, *JSON, BODY.decode())
    plain = curl("-i", f"{gateway.url}{CHAT}", *asked)
    head, _, body = plain.partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding:" not in head
    assert (b"\r\nConnection: keep-alive" in head) == (len(options) > 1)
    assert body == curl(f"{mock.url}{CHAT}", *KEYS, *JSON, BODY.decode())


def test_http_1_0_streams_until_the_connection_ends(
    mock: RunningMock, gateway: RunningGateway
) -> None:
    asked = (*KEYS, "-H", "x-mock-spacing-ms: 1", *JSON, STREAM)
    streamed = curl("-i", "-N", "--http1.0", f"{gateway.url}{CHAT}", *asked)
    head, _, body = streamed.partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding:" not in head
    assert b"\r\nConnection: close" in head
    assert body == curl(f"{mock.url}{CHAT}", *asked)


@pytest.mark.parametrize("length", [1, 1024 * 1024 + 1, 6_000_000])
@pytest.mark.parametrize("framing", ["chunked", "length", "stdin"])
def test_uploads(
    framing: str, length: int, mock: RunningMock, gateway: RunningGateway, tmp_path: Path
) -> None:
    """`-T` is a PUT that expects 100; from a pipe it is chunked, since its length is unknown."""
    body = random.Random(length).randbytes(length)
    file = tmp_path / "upload"
    file.write_bytes(body)
    expect = (*KEYS, "-H", "Expect: 100-continue")
    chunked = ("-H", "Transfer-Encoding: chunked") if framing == "chunked" else ()
    source = "-" if framing == "stdin" else str(file)
    url = f"{gateway.url}/v1/uploads/1"
    command = ["curl", "-sS", "-i", "-T", source, *expect, *chunked, url]
    with file.open("rb") as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, check=True, timeout=20)
    assert done.stdout.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 ")  # by the mock
    request = mock.ledger()[-1]
    assert (request["method"], request["target"]) == ("PUT", "/v1/uploads/1")
    assert request["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert values(request, "expect") == []
    lengths = [str(length)] if framing == "length" else []
    assert values(request, "content-length") == lengths
    assert values(request, "transfer-encoding") == ([] if lengths else ["chunked"])


def test_expect_is_not_continued_for_who_may_not_pass(gateway: RunningGateway) -> None:
    expect = ("-H", "Expect: 100-continue", "-H", "X-API-Key: nobody")
    answer = curl("-i", "-T", str(ROOT / "gateway.toml"), *expect, f"{gateway.url}/v1/uploads/1")
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_head(mock: RunningMock, gateway: RunningGateway) -> None:
    got = curl("-i", f"{gateway.url}/v1/models", *KEYS).partition(b"\r\n\r\n")
    headed = curl("-I", f"{gateway.url}/v1/models", *KEYS).partition(b"\r\n\r\n")
    assert mock.ledger()[-1]["method"] == "HEAD"
    assert headed[2] == b""
    length = b"content-length: %d" % len(got[2])
    assert length in headed[0].split(b"\r\n")
    names = [
        [line.partition(b":")[0] for line in head.split(b"\r\n")] for head in (got[0], headed[0])
    ]
    assert names[0] == names[1]


def test_streams_come_as_they_are(mock: RunningMock, gateway: RunningGateway) -> None:
    asked = (*KEYS, "-H", "x-mock-chunks: 50", "-H", "x-mock-spacing-ms: 1", *JSON, STREAM)
    through = curl("-N", "--raw", f"{gateway.url}{CHAT}", *asked)
    assert through == curl("-N", "--raw", f"{mock.url}{CHAT}", *asked)
    assert through.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("body", [BODY.decode(), STREAM])
def test_compressed(body: str, mock: RunningMock, gateway: RunningGateway) -> None:
    asked = (*KEYS, "-H", "x-mock-gzip: 1", *JSON, body)
    url = f"{gateway.url}{CHAT}"
    packed = curl(url, *asked)
    assert packed == curl(f"{mock.url}{CHAT}", *asked)
    assert curl("--compressed", url, *asked) == gzip.decompress(packed)
    assert "gzip" in values(mock.ledger()[-1], "accept-encoding")[0]


def test_one_connection_for_several_requests(mock: RunningMock, gateway: RunningGateway) -> None:
    url = f"{gateway.url}/v1/models"
    told = curl(
        *KEYS, "-w", "%{num_connects} ", "-o", "/dev/null", *([url, "-o", "/dev/null"] * 3), url
    )
    assert told == b"1 0 0 0 "
