"""Faults under load: each is made on purpose, and what clients notice of it is counted.

    python -m tests.faults                        all of them
    python -m tests.faults kill-worker --short    one, in seconds, as .ci/run does
    python -m tests.faults --record               beside nginx, into bench/results/faults.json

A fault is a coroutine that starts a server (`servers.py`: aigw, or nginx with the same duties),
puts load on it (`traffic.py`), does the damage, and returns an `Outcome`. What must come of it
stands in one table (`table.py`), which `outcome.py` holds against the outcome.
"""
