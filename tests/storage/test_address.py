"""Where the orders are kept, and that saying so gives no secret away."""

from __future__ import annotations

from pathlib import Path

import pytest

from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for, upgrade

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://db/orders", "postgresql://db/orders"),
        (f"postgresql://ada:{SECRET}@db:5432/orders", "postgresql://db:5432/orders"),
        (f"postgres://ada:{SECRET}@a:1,b:2/orders", "postgres://a:1,b:2/orders"),
        (f"postgresql://db/orders?user=ada&password={SECRET}", "postgresql://db/orders"),
        (f"postgresql:///orders?host=/run&password=a@{SECRET}", "postgresql://***"),
        (f"postgresql://ada:a@{SECRET}@db/orders", "postgresql://db/orders"),
        # A password that should have been quoted.
        (f"postgresql://ada:a/{SECRET}@db/orders", "postgresql://***"),
        (f"postgresql://ada:a#{SECRET}@db/orders", "postgresql://***"),
        (f"postgresql://ada:a?{SECRET}@db/orders", "postgresql://***"),
        (f"postgresql://ada:{SECRET}@[db/orders", "postgresql://***"),
        (f"mysql://ada:{SECRET}@db/orders", "mysql://db/orders"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    address = DatabaseAddress.parse(url)
    assert address.url == url
    assert str(address) == shown
    assert SECRET not in f"{address} {address!r} {address!s}"


def test_everything_else_is_a_file() -> None:
    assert DatabaseAddress.parse("orders.db") == DatabaseAddress(path=Path("orders.db"))
    assert DatabaseAddress.parse(Path("a/b.db")) == DatabaseAddress(path=Path("a/b.db"))
    assert str(DatabaseAddress.parse("a/b.db")) == "a/b.db"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/orders",  # nobody listens there
        f"postgresql://ada:{SECRET}@127.0.0.1:no/orders",
        f"postgresql://ada:{SECRET}@/orders?host=/nowhere",
        f"postgresql://ada:{SECRET}@127.0.0.1:1/orders?sslmode=maybe",
        f"mysql://ada:{SECRET}@127.0.0.1:1/orders",
        f"sqlite:///{SECRET}",
    ],
)
async def test_what_cannot_be_opened_is_told_without_its_secrets(url: str) -> None:
    with pytest.raises(StoreUnavailable) as failure:
        async with open_store_for(DatabaseAddress.parse(url)):
            pass
    told = str(failure.value)
    assert str(DatabaseAddress.parse(url)) in told
    if not url.startswith("sqlite"):
        assert SECRET not in told


async def test_a_missing_database_is_told(url: str) -> None:
    missing = DatabaseAddress.parse(url + "_not")
    with pytest.raises(StoreUnavailable, match="cannot be connected to") as failure:
        await upgrade(missing)
    assert "does not exist" in str(failure.value.__cause__)


async def test_a_file_is_brought_up_to_date_without_being_opened(tmp_path: Path) -> None:
    await upgrade(DatabaseAddress.parse(tmp_path / "orders.db"))
    async with open_store_for(DatabaseAddress.parse(str(tmp_path / "orders.db"))) as store:
        await store.ping()
