"""The peers' adapters: configurations that their owners accept, and what happens without them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aigw.config import load
from bench.compare import running_mock
from bench.peers import PEERS
from bench.peers.__main__ import main
from bench.peers.aigw import AIGW
from bench.peers.nginx import NGINX, NGINX_BARE
from bench.peers.peer import DUTIES, SLOW_KEY, Peer, Site, find_program, how_to_install
from bench.peers.run import (
    KINDS,
    PeerError,
    ask,
    kinds_of,
    make_site,
    refusal_of,
    running_peer,
)


def written(peer: Peer, site: Site) -> Path:
    """The folder with the peer's files."""
    for name, content in peer.write(site).items():
        (site.folder / name).write_text(content)
    return site.folder


def test_aigw_accepts_its_configuration(tmp_path: Path) -> None:
    site = Site(tmp_path, 18_000, 18_001, 18_002, workers=2)
    settings = load(written(AIGW, site) / "gateway.toml", {})
    assert settings.listen.address == ("127.0.0.1:18000",)
    assert settings.listen.workers == 2
    assert settings.upstreams[0].urls == ("http://127.0.0.1:18002",)
    assert [key.rps for key in settings.keys] == [100_000, 2]
    over_tls = AIGW.write(site._replace(ca=tmp_path / "ca.pem"))["gateway.toml"]
    assert f'ca = "{tmp_path}/ca.pem"' in over_tls
    assert "https://127.0.0.1:18002" in over_tls


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("peer", [NGINX, NGINX_BARE])
def test_nginx_accepts_its_configuration(peer: Peer, tmp_path: Path) -> None:
    file = written(peer, Site(tmp_path, 18_000, 18_001, 18_002, workers=2)) / "nginx.conf"
    command = ["nginx", "-t", "-c", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_every_adapter_says_what_it_does(peer: Peer, tmp_path: Path) -> None:
    site = Site(tmp_path, 18_000, 18_001, 18_002)
    told = f"{peer.write(site)} {peer.command(site, Path('p'))} {peer.environment(site)}"
    assert "18000" in told
    assert "18002" in told + str(peer.headers(site))
    assert set(peer.duties) | set(peer.missing_duties) == set(DUTIES)
    assert len(peer.duties) + len(peer.missing_duties) == len(DUTIES)
    assert "{peers}" not in how_to_install(peer, tmp_path)


def test_programs_are_found_in_the_folder_of_environments(tmp_path: Path) -> None:
    ferro = PEERS["Ferro"]._replace(program="no-such-program")
    assert find_program(ferro, tmp_path) is None
    program = tmp_path / "ferro" / "bin" / "no-such-program"
    program.parent.mkdir(parents=True)
    program.touch()
    assert find_program(ferro, tmp_path) == program


def test_who_is_missing_is_named_with_the_way_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = PEERS["rolter"]._replace(program="no-such-program")
    site = make_site(tmp_path / "site", 1)
    with (
        pytest.raises(PeerError, match="bin/pip install rolter"),
        running_peer(missing, site, None),
    ):
        pass
    assert main(["--peers", str(tmp_path)]) == 0
    assert f"aigw: {sys.executable}" in capsys.readouterr().out


def test_what_does_not_start_is_named(tmp_path: Path) -> None:
    silent = AIGW._replace(
        write=lambda site: {},
        command=lambda site, program: [str(program), "-c", "raise SystemExit('no wish to run')"],
    )
    site = make_site(tmp_path / "site", 1)
    with pytest.raises(PeerError, match="no wish to run"), running_peer(silent, site, None):
        pass


def test_the_gateway_that_one_would_write_oneself(tmp_path: Path) -> None:
    with running_mock(tmp_path / "mock") as mock:
        site = make_site(tmp_path / "site", mock.port)
        with running_peer(PEERS["60 lines of aiohttp"], site, None) as here:
            assert kinds_of(here) == tuple(KINDS)
            assert refusal_of(here) == 401
            slow = KINDS["chat, plain"]._replace(key=SLOW_KEY)
            assert [ask(here, slow)[0] for _ in range(3)] == [200, 200, 429]
