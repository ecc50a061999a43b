"""Who the samplers are at the moment: addresses as the settings give them, and those behind a name.

`dns:NAME:PORT` stands for every address that NAME has when it is looked up: samplers may then come and go, as they do
where a cluster scales them.
"""

import asyncio
import socket
from collections.abc import Sequence

_BY_NAME = "dns:"


async def sampler_addresses(given: Sequence[str]) -> list[str]:
    """host:port of every sampler; none for a name that has no address."""
    found: list[str] = []
    for address in given:
        if not address.startswith(_BY_NAME):
            found.append(address)
            continue
        name, _, port = address.removeprefix(_BY_NAME).rpartition(":")
        try:
            entries = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            continue
        hosts = sorted({str(entry[4][0]) for entry in entries})
        found += [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
    return found
