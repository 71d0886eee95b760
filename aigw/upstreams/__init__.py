"""How aigw reaches the providers: whom it asks, over which connection, and who is out.

`group` has the members of one upstream and lets `balance` choose among them; `member` is one URL
with its idle connections and what was seen of its health; `connector` makes connections (names,
TCP, TLS) and `connection` speaks HTTP/1.1 on one; `known` holds what of an answer's head need not
be found out again; `health` asks members how they are, from the controller, for all workers.
What an exchange does with an answer is decided in `proxy`.
"""
