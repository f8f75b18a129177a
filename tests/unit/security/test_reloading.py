"""Values made of files: read again when a file changes, kept when the change is no good."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from orderflow_server.security.reloading import Reloaded, UnusableFile


def joined(contents: Sequence[bytes]) -> str:
    text = b" ".join(contents).decode()
    if "bad" in text:
        raise ValueError("it is bad")
    return text


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_text(path.name)
    return paths


def test_it_is_the_same_value_until_a_file_changes(paths: list[Path]) -> None:
    reloaded = Reloaded(paths, joined, what="words")
    first = reloaded.current()
    assert reloaded.current() is first
    paths[1].write_text("three")
    assert (first, reloaded.current()) == ("one two", "one three")


def test_a_change_of_the_same_size_and_time_is_seen_when_the_file_is_replaced(
    paths: list[Path],
) -> None:
    reloaded = Reloaded(paths, joined, what="words")
    before = paths[0].stat()
    other = paths[0].with_name("other")
    other.write_text("eno")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(paths[0])
    assert reloaded.current() == "eno two"


def test_a_link_that_is_pointed_elsewhere_is_a_change(paths: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(paths[0])
    reloaded = Reloaded([link], joined, what="words")
    link.unlink()
    link.symlink_to(paths[1])
    assert reloaded.current() == "two"


@pytest.mark.parametrize("content", ["bad", None])
def test_a_bad_change_leaves_the_old_value_and_is_told_once(
    paths: list[Path], content: str | None
) -> None:
    reloaded = Reloaded(paths, joined, what="words")
    if content is None:
        paths[0].unlink()
    else:
        paths[0].write_text(content)
    with capture_logs() as lines:
        assert [reloaded.current() for _ in range(3)] == ["one two"] * 3
    assert [line["log_level"] for line in lines] == ["error"]
    assert "words" in lines[0]["error"]
    assert str(paths[0]) in lines[0]["error"]
    paths[0].write_text("good")
    with capture_logs() as lines:
        assert reloaded.current() == "good two"
    assert [line["log_level"] for line in lines] == ["info"]


def test_the_first_time_what_is_bad_is_an_error(paths: list[Path]) -> None:
    paths[0].write_text("bad")
    with pytest.raises(UnusableFile, match="it is bad"):
        Reloaded(paths, joined, what="words")
