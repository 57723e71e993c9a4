"""Other engines doing the same work, in turns with ours. Each is optional: what is missing is skipped and said so.

`python -m benchmarks.peers install` installs them privately. What a peer's own process runs (`restate_host`,
`dbos_host`, `inngest_host`) is executed by the private interpreter and imports nothing of Stepwire: so nothing is
imported here either.
"""
