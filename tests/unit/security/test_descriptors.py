"""Room for connections: the limit of open files is raised, and what is missing is told."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from orderflow_server.descriptors import OWN_FILES, room_for_connections


@pytest.fixture
def hard() -> Iterator[int]:
    """The soft limit is low; what it may be raised to."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1] if before[1] != resource.RLIM_INFINITY else 1_000_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), before[1]))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_is_raised_as_far_as_is_needed(hard: int) -> None:
    wanted = 1024
    assert wanted + OWN_FILES <= hard
    assert room_for_connections(wanted) == wanted
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted + OWN_FILES
    room_for_connections(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted + OWN_FILES


def test_where_it_cannot_be_raised_so_far_there_is_room_for_fewer(hard: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] == resource.RLIM_INFINITY:
        pytest.skip("there is no limit here")
    with capture_logs() as lines:
        assert room_for_connections(hard) == hard - OWN_FILES
    assert [line["log_level"] for line in lines] == ["warning"]
