"""Sessionware measured against a hand-written limit and against its peers.

Run as `python -m benchmarks --help`. The files, in the order of a measurement:

workloads     the values, what the application does with them, W0 to W6
client        WSGI calls inside one process
contestants/  one module a system: a WSGI application over a database URL
servers       PostgreSQL and MariaDB, started for the run with their default durability
              (child: how they are started and ended)
runner        a contestant inside its process: verified, timed
process       the same from outside: one process each, asked for one round at a time
measure       rounds, interleaved and shuffled; ratios to the limit
counts        statements, round trips, bytes and cookies of one request (relay: what passes on TCP)
instructions  callgrind
inprocess     the main run, made of these
http          gunicorn under wrk (load)
scale         many rows: lookup, save, list, purge (rows, waiting)
lost          concurrent writers of one session
report        Markdown and JSON (console: how a run shows itself)
"""
