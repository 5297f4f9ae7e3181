"""Ports for the servers that tests start."""

import random
import socket

# Below the kernel's range for outgoing connections, which could take a port before its server does; not the local target's.
_RANGE = range(10_000, 18_000)
_CHANCE = random.SystemRandom()  # the tests' own seeds would make every worker choose alike


def free_port() -> int:
    """Return a port of loopback that is free now, and that no other test is likely to choose."""
    while True:
        port = _CHANCE.choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
