"""What an address in a setting must look like, so that a mistake is found before it is used."""

from __future__ import annotations

from urllib.parse import urlsplit

_TARGET_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
_NATS_SCHEMES = frozenset({"nats", "tls", "ws", "wss"})


def split_host_port(address: str) -> tuple[str, int]:
    """The host, without the brackets of an IPv6 address, and the port.

    Raises:
        ValueError: It is not host:port.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError("it must be host:port, such as 127.0.0.1:50051")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError("an IPv6 address stands in brackets, such as [::1]:50051")
    if not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ValueError("its port must be a number from 0 to 65535")
    return host[1:-1] if bracketed else host, int(port)


def served_address(address: str) -> str:
    """An address to serve on, as it is; port 0 stands for any that is free.

    Raises:
        ValueError: It is not host:port.
    """
    split_host_port(address)
    return address


def target(address: str) -> str:
    """Where to connect to, as it is: host:port, a target as gRPC names them, or nothing.

    Raises:
        ValueError: It is none of them.
    """
    if not address or address.startswith(_TARGET_SCHEMES):
        return address
    _, port = split_host_port(address)
    if port == 0:
        raise ValueError("nobody can be reached at port 0")
    return address


def nats_urls(urls: str) -> str:
    """URLs of NATS servers with commas between them, as they are, or nothing.

    Raises:
        ValueError: One of them is no such URL. The text has no part of it: there may be a
            password in it.
    """
    for url in urls.split(",") if urls else ():
        stripped = url.strip()
        parts = urlsplit(stripped if "://" in stripped else f"nats://{stripped}")
        try:
            understood = parts.scheme in _NATS_SCHEMES and parts.hostname and parts.port != 0
        except ValueError:  # the port is no number, or too large
            understood = False
        if not understood:
            raise ValueError("it must be nats://host:port, or several with commas between them")
    return urls
