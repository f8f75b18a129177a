"""`make stack` changes in configurations what it must, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

import pytest
from deploy.queries import ROOT

sys.path.append(str(ROOT / "tools"))

from undocked.compose import Service, read_compose
from undocked.place import Place, places

NAMES = ["orders-1", "orders-10", "nats"]


def service(name: str) -> Service:
    return Service(
        name=name,
        image="image",
        entrypoint=(),
        command=(),
        environment={},
        working_directory=None,
        files={
            PurePosixPath("/etc/conf"): ROOT / "deploy" / "nats",
            PurePosixPath("/run/secrets/database"): ROOT / "deploy" / "nats" / "nats.conf",
        },
        directories=[PurePosixPath("/data")],
        health=(),
        needs=(),
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    elsewhere = {"postgres:5432": "127.0.0.1:41000"}
    return places([service(name) for name in NAMES], tmp_path, "127.9.9.", elsewhere)["orders-1"]


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("orders-1:50051", "127.9.9.2:50051"),
        ("[orders-10:9464, nats:4222]", "[127.9.9.3:9464, 127.9.9.4:4222]"),
        ("nats://nats:4222", "nats://127.9.9.4:4222"),
        ("{address: orders-10, port_value: 1}", "{address: 127.9.9.3, port_value: 1}"),
        ("${env:LISTEN:-0.0.0.0:13133}", "${env:LISTEN:-127.9.9.2:13133}"),
        ("http://127.0.0.1:8222/healthz", "http://127.9.9.2:8222/healthz"),
        ("u:p@postgres:5432/db", "u:p@127.0.0.1:41000/db"),
        ("server_name: nats", "server_name: nats"),
        ("service.instance.id=orders-1", "service.instance.id=orders-1"),
        ("my-nats:4222 is x.nats:4222", "my-nats:4222 is x.nats:4222"),
        ("version 10.0.0.0", "version 10.0.0.0"),
    ],
)
def test_hosts_become_addresses(place: Place, there: str, here: str) -> None:
    assert place.rendered(there) == here


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("--config=/etc/conf/a.yaml", "--config={}/etc/conf/a.yaml"),
        ("store_dir: /data", "store_dir: {}/data"),
        ("/run/secrets", "{}/run/secrets"),
        ("/usr/bin/data /database x/data", "/usr/bin/data /database x/data"),
    ],
)
def test_paths_are_below_the_directory_of_the_service(place: Place, there: str, here: str) -> None:
    assert place.rendered(there) == here.format(place.directory)


def test_what_is_mounted_is_where_the_service_looks_for_it(place: Place) -> None:
    place.furnish()
    directory = place.directory
    configuration = (directory / "etc" / "conf" / "nats.conf").read_text()
    assert "listen: 127.9.9.2:4222" in configuration
    assert f"store_dir: {directory}/data" in configuration
    assert (directory / "run" / "secrets" / "database").read_text() == configuration
    assert (directory / "data").is_dir()


def test_services_come_after_those_that_they_need_and_only_without_a_profile() -> None:
    services = read_compose(ROOT / "docker-compose.yml")
    names = [each.name for each in services]
    assert "load" not in names
    for each in services:
        assert all(names.index(needed) < names.index(each.name) for needed in each.needs)
