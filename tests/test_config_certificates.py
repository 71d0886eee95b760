"""Certificates of upstreams: read and tried when the configuration is."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from config_files import KEY, ROUTE, UPSTREAM, loaded, said
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("client", "other"):
        issued = authority.issue_cert(f"{name}.example")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    (tmp_path / "no.pem").write_text("nothing\n")
    (tmp_path / "broken.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    return tmp_path


def test_usable_files(folder: Path) -> None:
    lines = 'ca = "ca.pem"\ncert = "client.pem"\ncert_key = "client.key"\n'
    [upstream] = loaded(folder, KEY + UPSTREAM + lines + ROUTE).upstreams
    assert (upstream.ca, upstream.cert, upstream.cert_key) == tuple(
        str(folder / name) for name in ("ca.pem", "client.pem", "client.key")
    )


WRONG = {
    'ca = "none.pem"': "ca: can't read none.pem: No such file or directory",
    'ca = "."': "ca: . is not a regular file",
    'ca = "no.pem"': 'ca: no.pem is not a PEM file (it has no "-----BEGIN …" line)',
    'ca = "broken.pem"': "ca: broken.pem holds no usable certificate: ",
    'ca = "client.key"': "ca: client.key holds no usable certificate: ",
    'cert = "client.pem"': "cert: needs `cert_key`",
    'cert_key = "client.key"': "cert_key: needs `cert`",
    'cert = "client.pem"\ncert_key = "other.key"': (
        "cert_key: does not belong to the certificate in `cert`"
    ),
    'cert = "client.pem"\ncert_key = "client.pem"': "cert_key: can't be used with `cert`",
    'cert = "client.pem"\ncert_key = "locked.key"': (
        "cert_key: can't be used with `cert` (has it a password?)"
    ),
    'cert = "none.pem"\ncert_key = "client.key"': (
        "cert: can't read none.pem: No such file or directory"
    ),
}


@pytest.mark.parametrize("lines", WRONG)
def test_unusable_files(lines: str, folder: Path) -> None:
    (folder / "locked.key").write_bytes(encrypted_key())
    [told] = said(folder, KEY + UPSTREAM + lines + "\n" + ROUTE)
    place, _, rest = told.partition(": upstreams[0].")
    assert place in ("gateway.toml:7", "gateway.toml:8")
    assert rest.replace(f"{folder} is", ". is").startswith(WRONG[lines])


def encrypted_key() -> bytes:
    """One with a password, which OpenSSL must not ask for at the terminal."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


def test_of_no_use_without_tls(folder: Path) -> None:
    text = KEY + UPSTREAM.replace("https", "http") + 'ca = "ca.pem"\n' + ROUTE
    assert said(folder, text) == [
        "gateway.toml:7: upstreams[0].ca: has no use without an https url"
    ]
