"""aigw, an AI gateway: it authenticates, limits, routes and splices AI traffic, byte for byte.

The map of the house. Each room imports only from rooms above it; `tests/test_layers.py` holds it.

errors        the table of what the gateway refuses: code, status, whose fault, what to tell whom
config        gateway.toml into typed settings; every error with its file, line and cure
sharing       client connections shared evenly among the workers
sockets       binding listening sockets, handing them on, and draining them without a reset
processes     a forked child as its parent sees it: fork, command pipe, end
host          what the surroundings grant and want to know: CPUs, systemd's notifications
memory        the shared memory of all processes: buckets, counters, heartbeats, health, policy
wire          HTTP/1.1 bytes: heads, the gate, framing, rewriting.  Pure: no socket, clock or file
dialects      how providers differ: credential header and error envelope.  Pure
policy        may it pass, and where to: keys, limits, routes, compiled into one immutable object
upstreams     who answers: balance (pure); connector, connection, pool, health checks (I/O)
observe       access log, metrics, the record of a request
proxy         one client connection, one exchange: where bytes meet policy and upstream
admin         the admin listener: metrics, health, upstreams, reload, stop
mock          the built-in provider of `aigw demo` and the benches
worker        one event loop that does nothing but proxy
controller    health checks, admin and reload, in a process that may crash unnoticed
opening       what is opened before the first fork: sockets, shared memory, the first policy
master        fork, signals, waitpid: who lives and who serves; no event loop
demo          `aigw demo`: mock, gateway and a streamed request, offline
cli           the commands
"""
