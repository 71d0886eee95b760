"""The shapes of addresses, URLs, paths, names and header fields: text in, checked text out.

Stricter than a browser's address bar on purpose: what two programs could read in two ways is
refused here, once, so that nothing behind has to guess.  Every function raises `OptionError`.
URLs may hold a password, so that no message repeats one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from aigw.config.problems import OptionError

MAX_NAME_LENGTH = 128  # as long as a user id may be
MAX_UNIX_PATH_BYTES = 107  # sun_path of Linux less its final NUL
MAX_HOST_LENGTH = 253  # RFC 1035, 2.3.4, as text
DEFAULT_PORTS = {"http": 80, "https": 443}

# Fields that frame or steer a message; a credential there would change its meaning.
RESERVED_FIELDS = {
    "connection",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
}

_SEGMENT = r"[A-Za-z0-9._~!$&'()*+,;=:@-]"  # RFC 3986, 3.3, without percent-encoding
_PATH = re.compile(rf"(?:/{_SEGMENT}*)+\Z")
_TARGET = re.compile(rf"(?:/{_SEGMENT}*)+(?:\?(?:{_SEGMENT}|[/?%])*)?\Z")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110, 5.6.2
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?\Z")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")


def name(text: str) -> str:
    """A name that logs and metrics can show."""
    if not text:
        raise OptionError("must not be empty")
    if not text.isprintable() or text != text.strip():
        raise OptionError("must be printable, without space at its ends")
    if len(text) > MAX_NAME_LENGTH:
        raise OptionError(f"must not be longer than {MAX_NAME_LENGTH} characters")
    if text == "other":
        raise OptionError('must not be "other", which is what metrics call everything unknown')
    return text


def port(text: str, least: int) -> int:
    if not _PORT.match(text) or not least <= int(text) <= 65535:
        raise OptionError(f"port must be a number from {least} to 65535")
    return int(text)


def host(text: str) -> str:
    """A DNS name or an IP address, an IPv6 address in brackets."""
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            raise OptionError('host must be an IPv6 address in the brackets: "[::1]"') from None
        return text
    labels = text.removesuffix(".").split(".")
    if not text or len(text) > MAX_HOST_LENGTH or not all(map(_LABEL.match, labels)):
        raise OptionError("host must be a DNS name (ASCII, xn-- form) or an IP address")
    if labels[-1].isdigit():
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise OptionError("host is not a valid IPv4 address") from None
    return text


def address(text: str) -> str:
    """`"127.0.0.1:8080"`, `"[::1]:8080"`, `"localhost:8080"` or `"unix:/path"`; port 0 = any."""
    if text.startswith("unix:"):
        return _unix_address(text)
    match = _AUTHORITY.match(text)
    if match is None:
        if text.count(":") > 1 and "/" not in text:
            raise OptionError('an IPv6 address stands in brackets: "[::1]:8080"')
        raise OptionError('must be "host:port", "[v6]:port" or "unix:/path"')
    where, digits = match.groups()
    if digits is None:
        hint = f'":{text}"' if text.isdigit() else '":8080"'
        raise OptionError(
            f'must be "host:port", "[v6]:port" or "unix:/path"; add a port such as {hint}'
        )
    if where in ("", "*"):
        raise OptionError('needs a host: "127.0.0.1" for this machine, "0.0.0.0" or "[::]" for all')
    port(digits, least=0)
    return f"{host(where)}:{int(digits)}"


def _unix_address(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise OptionError('a Unix socket needs an absolute path: "unix:/run/aigw.sock"')
    if len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise OptionError(f"a Unix socket's path has at most {MAX_UNIX_PATH_BYTES} bytes")
    return text


def is_local(address: str) -> bool:
    """Whether only this machine can reach a listening address."""
    if address.startswith("unix:"):
        return True
    where = address.rpartition(":")[0].strip("[]")
    if where == "localhost":
        return True
    try:
        return ipaddress.ip_address(where).is_loopback
    except ValueError:
        return False


def network(text: str) -> str:
    """A CIDR, an IP address, or `"unix:"` for peers on Unix sockets."""
    if text == "unix:":
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        masked = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise OptionError(
            'must be a network such as "10.0.0.0/8", "fd00::/8", or "unix:"'
        ) from None
    raise OptionError(f'has bits set behind its mask, did you mean "{masked}"?')


def path(text: str) -> str:
    """A path alone: `"/"`, or segments without a slash at the end."""
    if not text.startswith("/"):
        raise OptionError('must begin with "/"')
    if "?" in text or "#" in text:
        raise OptionError("must be a path alone, without query or fragment")
    if "%" in text:
        raise OptionError("must be written without percent-encoding")
    if not _PATH.match(text):
        raise OptionError("holds characters that a path can't hold (space, control, non-ASCII, …)")
    if text == "/":
        return text
    if text.endswith("/"):
        raise OptionError(f'must not end with "/", write "{text.rstrip("/") or "/"}"')
    segments = text[1:].split("/")
    if "" in segments:
        raise OptionError('must not hold "//"')
    if "." in segments or ".." in segments:
        raise OptionError('must not hold "." or ".." as a segment')
    return text


def route(text: str) -> str:
    """The path of a route, which is a path and no pattern."""
    if "*" in text:
        raise OptionError('must not hold "*": a path takes everything below it')
    return path(text)


def prefix(text: str) -> str:
    """What a route strips: a path, or empty for nothing."""
    if text == "/":
        raise OptionError('must be "" (nothing) or a path such as "/openai"')
    return path(text) if text else text


def target(text: str) -> str:
    """What an active health check asks for; empty = connect only."""
    if text and not _TARGET.match(text):
        raise OptionError('must be a path such as "/health", or "" to connect only')
    return text


def within(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or lies below it, on a segment boundary."""
    return prefix == "/" or path == prefix or path.startswith(prefix + "/")


def prefixes(path: str) -> Iterator[str]:
    """The paths that `path` lies within, shortest first, itself last; none of an empty one."""
    if path:
        yield "/"
    parts = path.split("/")
    for count in range(2, len(parts) + 1):
        if path != "/":
            yield "/".join(parts[:count])


def url(text: str) -> str:
    """An upstream's URL: http or https, host, port and a base path, without a slash at the end."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise OptionError('must begin with "https://" or "http://"')
    if scheme.lower() not in DEFAULT_PORTS:
        raise OptionError('scheme must be "https" or "http"')
    if "?" in rest or "#" in rest:
        raise OptionError("must have no query or fragment")
    authority, slash, base = rest.partition("/")
    if "@" in authority:
        raise OptionError("must have no user or password, put it into `credentials`")
    match = _AUTHORITY.match(authority)
    if match is None or not match[1]:
        raise OptionError('needs a host: "https://api.example.com", "http://[::1]:8000"')
    where = host(match[1]).lower()
    number = "" if match[2] is None else f":{port(match[2], least=1)}"
    if number == f":{DEFAULT_PORTS[scheme.lower()]}":
        number = ""
    base = f"{slash}{base}".rstrip("/")
    return f"{scheme.lower()}://{where}{number}{path(base) if base else ''}"


def origin(text: str) -> str:
    """A browser's Origin, compared byte for byte: `"*"` or `scheme://host[:port]`."""
    if text == "*":
        return text
    scheme, separator, authority = text.partition("://")
    if not separator or not _SCHEME.match(scheme):
        raise OptionError('must be "*" or an origin such as "https://app.example.com"')
    if authority.endswith("/"):
        raise OptionError("an origin has no slash at its end")
    match = _AUTHORITY.match(authority)
    if match is None or not match[1] or "/" in authority:
        raise OptionError("must be scheme, host and port only, without path")
    if host(match[1]) != match[1].lower():
        raise OptionError("must be in lower case, as browsers send it")
    if match[2] is not None and port(match[2], least=1) == DEFAULT_PORTS.get(scheme):
        raise OptionError(f"must not name the default port {match[2]}, as browsers leave it out")
    return text


def field_name(text: str) -> str:
    """The header field that carries an upstream's credential; empty = the dialect's."""
    if not text:
        return text
    if not _TOKEN.match(text):
        raise OptionError('must be a header field name such as "api-key"')
    if text.lower() in RESERVED_FIELDS:
        raise OptionError(f'must not be "{text}", which steers the message itself')
    return text
