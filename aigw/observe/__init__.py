"""What aigw tells about its traffic: `metrics` for Prometheus, `access_log` for each request.

Both are fed by the workers and must never hold one up: a count is an addition to a word of shared
memory, a log line an append to a list that is written beside the traffic.  What is counted and
logged of an exchange is decided in `proxy`; `admin` serves the metrics.
"""
