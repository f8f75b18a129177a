"""Envoy's configuration as shipped, with other addresses: for a machine without the names in it.

Nothing but addresses differs: where it listens, where its admin is, and which servers there are.

Usage: python tools/edge.py DIRECTORY --listen HOST:PORT --admin HOST:PORT --server HOST:PORT ...
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).resolve().parent.parent / "deploy" / "envoy"


def write_edge(directory: Path, *, listen: str, admin: str, servers: Iterable[str]) -> None:
    """Writes all that Envoy reads. It must run in that directory: `envoy -c envoy.yaml`.

    Args:
        directory: Where to.
        listen: Where it serves, host:port.
        admin: Where its admin interface is, host:port.
        servers: The order servers, host:port each.
    """
    shutil.copy(SHIPPED / "orderflow.binpb", directory)
    edge = _read("envoy.yaml")
    edge["admin"]["address"] = _address(admin)
    edge["static_resources"]["listeners"][0]["address"] = _address(listen)
    _write(directory / "envoy.yaml", edge)
    clusters = _read("clusters.yaml")
    clusters["resources"][0]["load_assignment"]["endpoints"] = [
        {"lb_endpoints": [{"endpoint": {"address": _address(server)}} for server in servers]}
    ]
    _write(directory / "clusters.yaml", clusters)


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((SHIPPED / name).read_text())
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--admin", required=True)
    parser.add_argument("--server", required=True, action="append")
    given = parser.parse_args()
    write_edge(given.directory, listen=given.listen, admin=given.admin, servers=given.server)


if __name__ == "__main__":
    main()
