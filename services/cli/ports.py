"""TCP ports for the services of a local run."""

import random
import socket

from services.common.errors import ConfigurationError

CANDIDATES = range(20_000, 32_000)
"""Below Linux's ephemeral range: while a service restarts, no outgoing connection can take its port, and no client that
dials the dead port can be connected to itself."""


def is_free(host: str, port: int) -> bool:
    """Whether a service could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the services do: TIME_WAIT is not "taken"
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class PortPool:
    """Hands out ports of one host, each at most once."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._taken: set[int] = set()

    def take(self, wanted: int, owner: str) -> int:
        """Reserve a port.

        Args:
            wanted: the port asked for; 0 for any free one.
            owner: who will listen there, for the message.

        Raises:
            ConfigurationError: that port is in use, or no port is free.
        """
        port = wanted or self._any_free()
        if port in self._taken or not is_free(self._host, port):
            raise ConfigurationError(
                f"port {port} of {self._host}, configured for {owner}, is in use: free it, or set 0 to take any"
            )
        self._taken.add(port)
        return port

    def _any_free(self) -> int:
        for port in random.sample(CANDIDATES, k=len(CANDIDATES)):
            if port not in self._taken and is_free(self._host, port):
                return port
        raise ConfigurationError(f"no port of {self._host} between {CANDIDATES[0]} and {CANDIDATES[-1]} is free")
