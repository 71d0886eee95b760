"""What the hot functions cost, each alone: in instructions, which have no noise, or in time.

The gateway runs between two transports that only take what is written (`gateway.py`), so that no
socket, kernel or load generator is in the figure.  `cases.py` is the table of what is measured and
`messages.py` holds the bytes; `instructions.py` counts under valgrind what `counted.py` does there,
`baseline.py` compares with the counts committed in `bench/results/micro.json`, `timing.py` takes
CPU time.

    python -m bench.micro                     instructions per call, beside the committed ones
    python -m bench.micro --save              makes them the committed ones
    python -m bench.micro --time plain ids    CPU µs per call of two cases

Instructions repeat to a fraction of a per cent and so show that something costs more than it did,
however little.  Time says how much that matters, for not all instructions cost the same.
"""
