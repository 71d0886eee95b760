"""The admin listener: metrics, health, upstreams, reload, stop.

For operators, scrapers and orchestrators, in the controller's process.  `listener` speaks HTTP and
holds the rules of who may ask; `status` says what is shown.
"""
