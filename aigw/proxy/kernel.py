"""What only the kernel knows of a client's connection, and what it is told of it (slow paths)."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from array import array


def untaken_bytes(sock: socket.socket | None) -> int:
    """What was sent and the other side has not acknowledged yet (Linux: SIOCOUTQ)."""
    in_kernel = array("i", [0])
    if sock is not None and sock.fileno() >= 0:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, in_kernel)
    return in_kernel[0]


def let_fin_mean_end(sock: socket.socket | None, means_end: bool) -> None:
    """Whether the connection ends by FIN, or by RST: also if this process dies suddenly."""
    if sock is not None and sock.fileno() >= 0:
        linger = struct.pack("ii", not means_end, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
