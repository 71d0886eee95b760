"""The benches: what the gateway costs, and whether it keeps its promises while it is loaded.

Run from the repository's root, as modules: `python -m bench.compare`. `bench/README.md` says how
is measured, and what is not.
"""
