"""Who can reach an address."""

from __future__ import annotations

from ipaddress import ip_address


def only_this_machine(host: str) -> bool:
    """Whether a server on this host is reached from the same machine alone.

    Args:
        host: A name or an address, without brackets. Of names only `localhost` is known; what
            any other stands for is for the network to say.
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
