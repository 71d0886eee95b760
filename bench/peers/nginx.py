"""nginx, bare and with the gateway's duties: the measure of this comparison.

With equal duties it checks the key (map), limits its rate (limit_req), puts the provider's key in,
makes a request id and writes a buffered JSON line per request. Answers are passed on as they
arrive (`proxy_buffering off`), which streams need; small ones cost the same either way.
"""

from __future__ import annotations

from pathlib import Path

from bench.peers.peer import (
    DUTIES,
    GATEWAY_KEY,
    PROVIDER_KEY,
    REFUSAL,
    SLOW_KEY,
    TLS,
    TWO_WORKERS,
    Peer,
    Site,
)


def configuration(site: Site, http_part: str, location: str) -> str:
    folder = site.folder
    temporary = "".join(
        f" {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Without reuseport one of two workers would take most connections.
    reuse_port = " reuseport" if site.workers > 1 else ""
    tls = (
        f"""proxy_ssl_trusted_certificate {site.ca}; proxy_ssl_verify on;
   proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_session_reuse on;
   proxy_ssl_protocols TLSv1.2 TLSv1.3;"""
        if site.ca
        else ""
    )
    return f"""worker_processes {site.workers}; daemon off; pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{
 keepalive_requests 1000000000; client_body_buffer_size 64k;{temporary}
 upstream provider {{
  server 127.0.0.1:{site.upstream_port}; keepalive 512; keepalive_requests 1000000000;
 }}
 {http_part}
 server {{
  listen 127.0.0.1:{site.port} backlog=4096{reuse_port};
  location / {{
   proxy_pass {"https" if site.ca else "http"}://provider;
   proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
   {tls}
   {location}
  }}
 }}
}}
"""


def bare(site: Site) -> dict[str, str]:
    return {"nginx.conf": configuration(site, "access_log off;", "")}


def equal(site: Site) -> dict[str, str]:
    http_part = f"""log_format line escape=json
  '{{"time":"$time_iso8601","request_id":"$request_id",'
  '"key":"$key_name","client_ip":"$remote_addr","method":"$request_method","path":"$uri",'
  '"status":$status,"bytes_in":"$request_length","bytes_out":$bytes_sent,'
  '"ttfb":"$upstream_header_time","duration":$request_time}}';
 access_log {site.folder}/access.log line buffer=64k flush=1s;
 map $http_authorization $key_name {{
  default ""; "Bearer {GATEWAY_KEY}" "bench"; "Bearer {SLOW_KEY}" "slow";
 }}
 map $key_name $fast_key {{ default ""; "bench" "bench"; }}
 map $key_name $slow_key {{ default ""; "slow" "slow"; }}
 limit_req_zone $fast_key zone=fast:1m rate=100000r/s;
 limit_req_zone $slow_key zone=slow:1m rate=2r/s;
 limit_req_status 429; limit_req_log_level info;"""
    location = f"""if ($key_name = "") {{ return 401 '{REFUSAL}'; }}
   limit_req zone=fast burst=100000 nodelay;
   limit_req zone=slow burst=2 nodelay;
   proxy_set_header Authorization "Bearer {PROVIDER_KEY}";
   proxy_set_header X-Request-ID $request_id;
   add_header X-Request-ID $request_id always;"""
    return {"nginx.conf": configuration(site, http_part, location)}


def command(site: Site, program: Path) -> list[str]:
    return [str(program), "-c", f"{site.folder}/nginx.conf"]


NGINX = Peer(
    name="nginx, equal duties",
    kind="proxy",
    install="apt-get install nginx",
    program="nginx",
    write=equal,
    command=command,
    duties=DUTIES,
    version=("-v",),
    starts_as=(TLS, TWO_WORKERS),
)
NGINX_BARE = NGINX._replace(name="bare nginx", write=bare, duties=(), starts_as=())
