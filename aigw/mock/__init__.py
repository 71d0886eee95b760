"""The built-in provider: what `aigw demo` and the benches talk to instead of the network.

It answers like OpenAI and Anthropic, well enough for their own SDKs, from precomputed bytes, so
that a bench measures the gateway and not its upstream. It is not a test of HTTP: it is lenient,
checks no credential and must only ever face loopback. `request.py` reads, `shape.py` finds out
what is wanted, `answers.py`, `heads.py` and `streams.py` build the bytes, `provider.py` sends them
in time.
"""
