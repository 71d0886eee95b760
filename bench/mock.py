"""The mock provider as the benches' upstream, in as many processes as it takes.

`python -m bench.mock --processes 2 --port 9000 [options of aigw.mock]`; they share the port by
SO_REUSEPORT, and end together on Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mock", description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--port", type=int, default=9000)
    options, others = parser.parse_known_args(argv)
    command = [sys.executable, "-m", "aigw.mock", "--port", str(options.port), "--reuse-port"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    running = [subprocess.Popen([*command, *others]) for _ in range(options.processes)]
    try:
        codes = [process.wait() for process in running]
    except KeyboardInterrupt:
        codes = []
    finally:
        for process in running:
            process.terminate()
            process.wait()
    return max(codes, default=0)


if __name__ == "__main__":
    raise SystemExit(main())
