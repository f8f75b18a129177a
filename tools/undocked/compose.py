"""What docker-compose.yml says of each service, as far as running it takes."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

BUILT_HERE = "orderflow-server"
"""The one image that is not somebody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service as the file has it: its paths and its addresses are those inside of a container.

    Attributes:
        image: Without registry and tag.
        entrypoint: Empty: the image's own.
        files: What is mounted from here, by where it is there.
        directories: Where the service keeps what it writes.
        health: The command that says with 0 that it is well. Empty: there is none.
        needs: What has to be started before.
    """

    name: str
    image: str
    entrypoint: Sequence[str]
    command: Sequence[str]
    environment: Mapping[str, str]
    working_directory: PurePosixPath | None
    files: Mapping[PurePosixPath, Path]
    directories: Sequence[PurePosixPath]
    health: Sequence[str]
    needs: Sequence[str]


def read_compose(path: Path) -> list[Service]:
    """The services that come up without a profile, each after those that it needs."""
    document = yaml.safe_load(path.read_text())
    secrets = {
        name: path.parent / secret["file"] for name, secret in document.get("secrets", {}).items()
    }
    services = {
        name: _service(name, given, secrets, path.parent)
        for name, given in document["services"].items()
        if not given.get("profiles")
    }
    order = graphlib.TopologicalSorter({name: each.needs for name, each in services.items()})
    return [services[name] for name in order.static_order()]


def _service(
    name: str, given: Mapping[str, Any], secrets: Mapping[str, Path], root: Path
) -> Service:
    files = {
        PurePosixPath("/run/secrets", secret): secrets[secret]
        for secret in given.get("secrets", ())
    }
    directories = [PurePosixPath(each) for each in given.get("tmpfs", ())]
    for volume in given.get("volumes", ()):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            files[PurePosixPath(target)] = root / source
        else:
            directories.append(PurePosixPath(target))
    test = given.get("healthcheck", {}).get("test", [])
    working_directory = given.get("working_dir")
    return Service(
        name=name,
        image=given["image"].rpartition(":")[0] or given["image"],
        entrypoint=given.get("entrypoint", ()),
        command=given.get("command", ()),
        environment=given.get("environment", {}),
        working_directory=PurePosixPath(working_directory) if working_directory else None,
        files=files,
        directories=directories,
        health=test[1:],
        needs=list(given.get("depends_on", {})),
    )
