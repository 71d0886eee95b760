"""One client connection, one exchange: the only place where bytes meet policy and upstream.

`exchange.py` is the story of one request, readable from top to bottom; it ends in `finish`.
`client.py` makes heads and exchanges of a client's bytes, `admission.py` lists the questions that
a request must pass, `refusal.py` writes the gateway's own answers.  `deadlines.py` sweeps, and has
`lag.py` say whether the worker is overloaded and `hang_up.py` who has left unseen.
"""
