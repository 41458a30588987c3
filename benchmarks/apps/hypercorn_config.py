"""Limits of Hypercorn's that would end a benchmark's connections before their time."""

keep_alive_max_requests = 10**9
keep_alive_timeout = 600
h2_max_concurrent_streams = 1000
