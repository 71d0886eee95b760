"""`python -m bench.peers`: who is installed, and how to install the others."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from bench.peers import PEERS
from bench.peers.peer import find_program, how_to_install


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--peers", type=Path, default=os.environ.get("AIGW_PEERS"))
    options = parser.parse_args(argv)
    for peer in PEERS.values():
        found = find_program(peer, options.peers)
        print(f"{peer.name}: {found or how_to_install(peer, options.peers)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
