"""Where a service of docker-compose.yml lives when there is no container around it.

A container has a network address and a root directory of its own. Here each service gets an
address of its own in 127.0.0.0/8, so that every port can stay what it is, and a directory in which
what is mounted into the container is found at the same place. So of all that the file and the
mounted configurations say, only names of hosts and beginnings of paths have to be changed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from undocked.compose import Service

SECRETS = PurePosixPath("/run/secrets")
OWN = ("0.0.0.0", "127.0.0.1")  # noqa: S104  what a service in a container listens on
"""Means the service itself, inside of its container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one service lives.

    Attributes:
        address: Its own.
        directory: Stands for the root of its container.
    """

    service: Service
    address: str
    directory: Path
    _hosts: re.Pattern[str]
    _paths: re.Pattern[str]
    _addresses: Mapping[str, str]

    def rendered(self, text: str) -> str:
        """The text, about hosts and paths as this service sees them here."""
        text = self._hosts.sub(lambda found: self._addresses[found[0]], text)
        return self._paths.sub(lambda found: f"{self.directory}{found[0]}", text)

    def furnish(self) -> None:
        """Puts what is mounted, and what the service writes to, in its place."""
        for target in self.service.directories:
            self.at(target).mkdir(parents=True, exist_ok=True)
        for target, source in self.service.files.items():
            inside = [path for path in sorted(source.rglob("*")) if path.is_file()]
            for path in inside or [source]:
                self._copy(path, self.at(target) / path.relative_to(source))

    def at(self, path: PurePosixPath) -> Path:
        return self.directory / path.relative_to("/")

    def _copy(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.write_text(self.rendered(source.read_text()))
        except UnicodeDecodeError:  # descriptors and the like name no hosts
            shutil.copyfile(source, target)


def places(
    services: Sequence[Service], scratch: Path, network: str, elsewhere: Mapping[str, str]
) -> dict[str, Place]:
    """A place for each service.

    Args:
        services: All of them.
        scratch: Below this directory.
        network: The first three numbers of their addresses, with a dot at the end.
        elsewhere: Of what is not at the port that the file says, host:port there and here.
    """
    addresses = {each.name: f"{network}{n}" for n, each in enumerate(services, start=2)}
    return {
        each.name: Place(
            service=each,
            address=addresses[each.name],
            directory=scratch / each.name,
            _hosts=_host_pattern(addresses, elsewhere),
            _paths=_path_pattern(each),
            _addresses={**addresses, **elsewhere, **dict.fromkeys(OWN, addresses[each.name])},
        )
        for each in services
    }


def _host_pattern(names: Iterable[str], elsewhere: Iterable[str]) -> re.Pattern[str]:
    """Names before a port or in a field `address`, and what a service calls itself."""
    name, moved, own = _any_of(names), _any_of(elsewhere), _any_of(OWN)
    return re.compile(
        rf"(?<![\w.])(?<!\w-)(?:(?:{moved})|(?:{name})(?=:\d)|(?<=address: )(?:{name})|(?:{own}))\b"
    )


def _path_pattern(service: Service) -> re.Pattern[str]:
    """Paths below what is mounted."""
    mounted = {*service.files, *service.directories}
    if any(path.is_relative_to(SECRETS) for path in mounted):
        mounted.add(SECRETS)
    return re.compile(rf"(?<![\w./-])(?:{_any_of(map(str, mounted))})(?![\w-])")


def _any_of(texts: Iterable[str]) -> str:
    """A pattern; the longest first, because the first that fits is taken."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)"
