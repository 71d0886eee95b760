"""What the hot functions cost, each alone.

The gateway runs between two transports that only take what is written (`gateway.py`), so that no
socket, kernel or load generator is in the figure.  `cases.py` is the table of what is measured,
`timing.py` takes CPU time.

    python -m bench.micro --time              CPU µs per call
    python -m bench.micro --time plain ids    of two cases
"""
