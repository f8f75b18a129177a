from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orderflow_client.bearer import bearer, stays_here

CANARY = "s3cret-c4nary"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_str_is_the_token() -> None:
    assert bearer("a.b.c")() == "Bearer a.b.c"


def test_a_function_is_asked_each_time() -> None:
    tokens = iter(["one", "two"])
    header = bearer(lambda: next(tokens))
    assert [header(), header()] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("wrong", ["", f"{CANARY} x", f"{CANARY}\n", f"{CANARY}é", f"{CANARY}\x00"])
def test_what_no_header_can_carry_is_refused_without_being_quoted(wrong: str) -> None:
    for make in (lambda: bearer(wrong), lambda: bearer(lambda: wrong)()):
        with pytest.raises(ValueError, match="token") as caught:
            make()
        assert CANARY not in repr(caught.value)


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "token"
        path.write_text("one\n")
        return path

    def test_is_read_again_when_it_has_changed(self, path: Path) -> None:
        clock = Clock()
        header = bearer(path, clock=clock)
        assert header() == "Bearer one"
        path.write_text("second\n")
        assert header() == "Bearer one"
        clock.now_s = 1.0
        assert header() == "Bearer second"

    def test_one_that_another_is_put_in_place_of_has_changed(self, path: Path) -> None:
        """As Kubernetes does, and with the same length and time."""
        clock = Clock()
        header = bearer(path, clock=clock)
        before = path.stat()
        other = path.with_name("other")
        other.write_text("two\n")
        other.replace(path)
        assert path.stat().st_size == before.st_size
        clock.now_s = 1.0
        assert header() == "Bearer two"

    @pytest.mark.parametrize("content", [None, "", "half\nwritten"])
    def test_when_it_cannot_be_read_the_token_before_is_used_on(
        self, path: Path, content: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = Clock()
        header = bearer(path, clock=clock)
        path.unlink()
        if content is not None:
            path.write_text(content)
        clock.now_s = 1.0
        with caplog.at_level(logging.WARNING, "orderflow_client"):
            assert header() == "Bearer one"
        assert str(path) in caplog.text
        path.unlink(missing_ok=True)
        path.write_text("afterwards")
        clock.now_s = 2.0
        assert header() == "Bearer afterwards"

    def test_one_that_is_not_there_is_said_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"none\.token cannot be read: No such file"):
            bearer(tmp_path / "none.token")

    def test_one_that_holds_something_else_is_not_quoted(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.write_bytes(CANARY.encode() + b"\xff")
        with pytest.raises(ValueError, match="token") as caught:
            bearer(path)
        assert CANARY not in repr(caught.value) + repr(caught.value.__cause__) + caplog.text


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:50051",
        "localhost:50051",
        "[::1]:50051",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
        "ipv6:[::1]:1",
        "dns:localhost:1",
        "dns:///127.0.0.1:1",
        "dns://10.0.0.1/localhost:1",
        "unix:/run/orders.sock",
    ],
)
def test_these_targets_are_on_this_machine(target: str) -> None:
    assert stays_here(target)


@pytest.mark.parametrize(
    "target",
    [
        "10.0.0.1:50051",
        "orders.example:443",
        "localhost.example:443",
        "127.0.0.1.example:443",
        "0.0.0.0:50051",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "dns:///orders.example:443",
        "dns://127.0.0.1/orders.example:443",
        "[fe80::1]:50051",
        "xds:///orders",
        "",
    ],
)
def test_these_are_not_or_may_not_be(target: str) -> None:
    assert not stays_here(target)
