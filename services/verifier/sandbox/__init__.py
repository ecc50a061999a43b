"""Runs untrusted programs: one locked-down child process per test, forked from a clean interpreter.

`pool` is the way in; `inside` is the code that runs on the other side of the wall.
"""
