"""HAProxy with equal duties. Without `http-no-delay` it would hold a stream's chunks for 80 ms.

It logs to syslog or to a descriptor, not to files: here to its standard output, which is a file.
"""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import (
    DUTIES,
    GATEWAY_KEY,
    PROVIDER_KEY,
    REFUSAL,
    SLOW_KEY,
    TOO_MANY,
    Peer,
    Site,
)


def configuration(site: Site) -> str:
    return f"""global
  nbthread {site.workers}
  maxconn 8192
  log stdout format raw local0
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option httplog
  option http-keep-alive
  option http-no-delay
  http-reuse always
frontend clients
  bind 127.0.0.1:{site.port} backlog 4096
  log global
  unique-id-format %{{+X}}o%ci:%cp_%Ts_%rt
  unique-id-header X-Request-ID
  stick-table type string len 64 size 100k expire 60s store http_req_rate(1s)
  acl fast req.hdr(authorization) -m str "Bearer {GATEWAY_KEY}"
  acl slow req.hdr(authorization) -m str "Bearer {SLOW_KEY}"
  http-request return status 401 content-type application/json string '{REFUSAL}' unless fast or slow
  http-request track-sc0 req.hdr(authorization)
  http-request return status 429 content-type application/json string '{TOO_MANY}' if slow {{ sc_http_req_rate(0) gt 2 }}
  http-request return status 429 content-type application/json string '{TOO_MANY}' if fast {{ sc_http_req_rate(0) gt 100000 }}
  http-request set-header Authorization "Bearer {PROVIDER_KEY}"
  http-response set-header X-Request-ID %[unique-id]
  default_backend provider
backend provider
  server mock 127.0.0.1:{site.upstream_port} pool-max-conn -1
"""  # noqa: E501


def command(site: Site, program: Path) -> list[str]:
    return [str(program), "-db", "-f", f"{site.folder}/haproxy.cfg"]


HAPROXY = Peer(
    name="HAProxy",
    kind="proxy",
    install="apt-get install haproxy",
    program="haproxy",
    write=lambda site: {"haproxy.cfg": configuration(site)},
    command=command,
    duties=DUTIES,
    version=("-v",),
)
