"""Whether the PEM files of an upstream can be read and used, told before aigw starts.

The only part of the room that needs `ssl`, which is imported when the first certificate is met.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aigw.config.problems import OptionError, reason

MAX_PEM_BYTES = 4 * 1024 * 1024  # the bundle of a whole system's trust store has 0.2 MiB


def faults(ca: str, cert: str, cert_key: str) -> Iterator[tuple[str, str]]:
    """(option, what is wrong with it) of an upstream's files; an empty path = not given."""
    readable = set()
    for option, file in (("ca", ca), ("cert", cert), ("cert_key", cert_key)):
        try:
            if file:
                _check_pem(Path(file))
                readable.add(option)
        except OptionError as wrong:
            yield option, str(wrong)
    if "ca" in readable and (fault := _ca_fault(ca)):
        yield "ca", fault
    if cert and not cert_key:
        yield "cert", "needs `cert_key`"
    if cert_key and not cert:
        yield "cert_key", "needs `cert`"
    if {"cert", "cert_key"} <= readable:
        yield from _pair_faults(cert, cert_key)


def _check_pem(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            raise OptionError(f"{path} is not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except (OSError, ValueError) as error:
        raise OptionError(f"can't read {path}: {reason(error)}") from None
    if len(content) > MAX_PEM_BYTES:
        raise OptionError(f"{path} is too large for a PEM file")
    if b"-----BEGIN " not in content:
        raise OptionError(f'{path} is not a PEM file (it has no "-----BEGIN …" line)')


def _ca_fault(ca: str) -> str:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        return f"{ca} holds no usable certificate: {_said(error)}"
    return ""


def _pair_faults(cert: str, cert_key: str) -> Iterator[tuple[str, str]]:
    import ssl

    try:
        # Without a password OpenSSL would ask for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, cert_key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            yield "cert_key", "does not belong to the certificate in `cert`"
        else:
            yield "cert_key", f"can't be used with `cert` (has it a password?): {_said(error)}"


def _said(error: Exception) -> str:
    said = getattr(error, "reason", None)
    return said.replace("_", " ").lower() if said else str(error)
