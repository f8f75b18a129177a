"""Values that the database refuses, sent by one caller, over a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fakes.postgres import TestDatabases, postgres
from fakes.tokens import Issuer, bearer, write_set
from harness import Service, create_request, failure_of, running_service
from orderflow.v1 import order_service_pb2 as pb

__all__ = ["postgres"]

ISSUER = Issuer("k1")
ALICE = bearer(ISSUER.token("alice"))


@pytest.fixture
async def service(tmp_path: Path, postgres: TestDatabases) -> AsyncIterator[Service]:
    keys = write_set(tmp_path / "keys.json", ISSUER.jwk)
    async with (
        postgres.new() as url,
        running_service(tmp_path, database=url, token_keys=keys) as running,
    ):
        yield running


@pytest.mark.parametrize("subject", ["mal\0lory", "mallory\ud800"])
async def test_a_caller_whose_name_cannot_be_stored_stops_nobody_else(
    service: Service, subject: str
) -> None:
    mallory = bearer(ISSUER.token(subject))
    created = await service.stub.CreateOrder(create_request(), metadata=ALICE)
    # More than the store's breaker needs to open.
    for _ in range(40):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.ListOrders(pb.ListOrdersRequest(), metadata=mallory)
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_VALUE",
        )
        assert "UTF8" not in failure.message, "the database's text is not the caller's"
        assert "codec" not in failure.message
    listed = await service.stub.ListOrders(pb.ListOrdersRequest(), metadata=ALICE)
    assert [order.id for order in listed.orders] == [created.order.id]
    await service.stub.CreateOrder(create_request(), metadata=ALICE)
