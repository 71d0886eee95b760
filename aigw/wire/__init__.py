"""HTTP/1.1 bytes: heads, the gate, framing, rewriting.  Pure: no socket, clock, file or log.

h11 reads every head; the gate then refuses whatever two parsers could read differently; framing
finds the end of a body while it passes; rewrite writes the head for the other side from what was
parsed, never from bytes that were only copied.
"""
