"""Sessionware measured against a hand-written limit and against its peers.

Run as `python -m benchmarks --help`. The files, in the order of a measurement:

workloads     the values, what the application does with them, W0 to W6
client        WSGI calls inside one process
contestants/  one module a system: a WSGI application over a database URL
servers       PostgreSQL and MariaDB, started for the run with their default durability
runner        one process a contestant, asked for one round at a time
measure       rounds, interleaved and shuffled; ratios to the limit
counts        statements, round trips, bytes and cookies of one request
instructions  callgrind
http          gunicorn under wrk
scale         many rows: lookup, save, list, purge
lost          concurrent writers of one session
report        Markdown and JSON
"""
