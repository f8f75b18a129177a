"""A port for a server that this process is going to start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from errno import EADDRINUSE

_PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to connections, which is how it would give one to somebody else
before the caller listens there, or while its server is away."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody else who asks this takes as long as this process lives.

    Its twin of UDP is held meanwhile, so that processes which choose beside take another.

    Raises:
        OSError: None is free.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        with (
            suppress(OSError),  # Somebody has it.
            socket.socket(type=socket.SOCK_DGRAM) as twin,
            socket.socket() as probe,
        ):
            twin.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            twin.detach()  # It stays open until the process ends.
            return port
    raise OSError(EADDRINUSE, f"no port of {_PORTS[0]} to {_PORTS[-1]} is free")
