"""What the tests stand on, one module each, from the bottom up.

processes  children that die with the test run
servers    real PostgreSQL and MariaDB servers, started here
databases  an empty database for each test, and what a test left open in it
clock      time that moves only when told
driver     every call that reaches a driver, on any engine
counting   the statements and transactions a piece of code costs
faults     the same calls failing, one after the other
proxy      the wire between a driver and its server: counted, or broken
rows       rows to put under the store, and what its table holds
first_start  many processes that meet an empty database at once
wsgi       a strict WSGI server in one function, and a browser
values     values of every kind, and the difference between them
apps       applications of every shape, and a site to visit
jar        a browser's cookie jar (RFC 6265bis)
site       pages that are functions of the session, and what they leave in the table
cache      a shared HTTP cache (RFC 9111)
gunicorn   the application in a real server
meeting    two processes that wait for each other
"""
