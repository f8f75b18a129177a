"""Who may do what: tokens, roles, and orders of one's own, asked over real gRPC."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fakes.logs import configure, logs_put_back
from fakes.telemetry import Seen
from fakes.tokens import Issuer, bearer, write_set
from harness import Failure, Service, create_request, failure_of, running_service, until
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb

ISSUER = Issuer("k1")
ALICE = bearer(ISSUER.token("alice"))
BOB = bearer(ISSUER.token("bob"))
AUDITOR = bearer(ISSUER.token("dora", ["auditor"]))
OPERATOR = bearer(ISSUER.token("olga", ["operator"]))
NOBODY = bearer(ISSUER.token("nick", ["gardener"]))
BOTH = bearer(ISSUER.token("carol", ["customer", "auditor"]))

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_set(tmp_path / "keys.json", ISSUER.jwk)


@pytest.fixture
async def service(tmp_path: Path, keys: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path, token_keys=keys) as running:
        yield running


def requests(order_id: str) -> dict[str, Any]:
    return {
        "CreateOrder": create_request(),
        "GetOrder": pb.GetOrderRequest(order_id=order_id),
        "ListOrders": pb.ListOrdersRequest(),
        "CancelOrder": pb.CancelOrderRequest(order_id=order_id),
        "WatchOrder": pb.WatchOrderRequest(order_id=order_id),
    }


METHODS = list(requests(""))


async def ask(service: Service, method: str, request: Any, metadata: Metadata = ()) -> Any:
    """The answer; of a watch, the first."""
    call = getattr(service.stub, method)(request, metadata=metadata, timeout=10)
    if method != "WatchOrder":
        return await call
    try:
        return await anext(aiter(call))
    finally:
        call.cancel()


async def refused(service: Service, method: str, request: Any, metadata: Metadata = ()) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(service, method, request, metadata)
    return failure_of(caught.value)


async def place(service: Service, metadata: Metadata = ALICE, **changes: Any) -> order_pb2.Order:
    request = create_request(**changes)
    return (await service.stub.CreateOrder(request, metadata=metadata)).order


NO_GOOD: dict[str, tuple[Metadata, str]] = {
    "none": ((), "TOKEN_MISSING"),
    "basic": ((("authorization", "Basic YWxpY2U6c2VjcmV0"),), "TOKEN_MISSING"),
    "no scheme": ((("authorization", ISSUER.token()),), "TOKEN_MISSING"),
    "empty": (bearer(""), "TOKEN_INVALID"),
    "forged": (bearer(Issuer("k1").token()), "TOKEN_INVALID"),
    "wrong audience": (bearer(ISSUER.token(aud="billing")), "TOKEN_INVALID"),
    "expired": (bearer(ISSUER.token(exp=time.time() - 60)), "TOKEN_EXPIRED"),
}


async def test_without_a_good_token_nothing_is_done(service: Service) -> None:
    order = await place(service)
    for name, (metadata, reason) in NO_GOOD.items():
        for method, request in requests(order.id).items():
            failure = await refused(service, method, request, metadata)
            said = (name, method, failure.code, failure.reason)
            assert said == (name, method, grpc.StatusCode.UNAUTHENTICATED, reason)
    listed = await ask(service, "ListOrders", pb.ListOrdersRequest(), OPERATOR)
    assert list(listed.orders) == [order]


async def test_the_scheme_is_written_in_any_case(service: Service) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        metadata = (("authorization", f"{scheme} {ISSUER.token()}"),)
        await ask(service, "ListOrders", pb.ListOrdersRequest(), metadata)


ALLOWED = {
    "CreateOrder": {"customer", "operator"},
    "GetOrder": {"customer", "auditor", "operator"},
    "ListOrders": {"customer", "auditor", "operator"},
    "CancelOrder": {"customer", "operator"},
    "WatchOrder": {"customer", "auditor", "operator"},
}


async def test_each_method_has_its_roles(service: Service) -> None:
    order = await place(service)
    passed: dict[str, set[str]] = {method: set() for method in METHODS}
    for role in ("customer", "auditor", "operator", "gardener", "Operator"):
        metadata = bearer(ISSUER.token("alice", [role]))
        for method, request in requests(order.id).items():
            try:
                await ask(service, method, request, metadata)
                passed[method].add(role)
            except grpc.aio.AioRpcError as error:
                failure = failure_of(error)
                assert failure.code is grpc.StatusCode.PERMISSION_DENIED
                assert failure.reason == "ROLE_MISSING"
    assert passed == ALLOWED


async def test_who_has_no_role_learns_nothing_of_what_there_is(service: Service) -> None:
    order = await place(service)
    answers = [
        await refused(service, "GetOrder", pb.GetOrderRequest(order_id=order_id), NOBODY)
        for order_id in (order.id, str(uuid4()))
    ]
    assert len({(answer.code, answer.reason, answer.message) for answer in answers}) == 1


def as_told(error: grpc.aio.AioRpcError, order_id: str) -> tuple[Any, ...]:
    """All of an answer but the names of the call and of the order."""
    raw = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(raw["grpc-status-details-bin"])
    told = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            info.metadata.clear()
            told.append(str(info))
        else:
            told.append(str(detail).replace(order_id, "ID"))
    message = (error.details() or "").replace(order_id, "ID")
    return error.code(), message, told, sorted(raw)


class Reads:
    """The spans of what the store was asked for calls that failed."""

    def __init__(self, seen: Seen, method: str) -> None:
        self._seen, self._method = seen, f"orderflow.v1.OrderService/{method}"

    def of_the_last(self) -> list[str]:
        calls = [span for span in self._seen.spans if span.name == self._method]
        if not calls:
            return []
        return [
            span.name
            for span in self._seen.spans
            if span.parent is not None and span.parent.span_id == calls[-1].context.span_id
        ]

    def count(self) -> int:
        return sum(span.name == self._method for span in self._seen.spans)


@pytest.mark.parametrize("method", ["GetOrder", "CancelOrder", "WatchOrder"])
async def test_anothers_order_is_as_if_it_did_not_exist(
    tmp_path: Path, keys: Path, method: str
) -> None:
    """The same code, words and details, after the same questions to the store."""
    seen = Seen()
    reads = Reads(seen, method)
    async with running_service(
        tmp_path, token_keys=keys, tracer_provider=seen.tracer_provider
    ) as service:
        order = await place(service)
        told, asked = [], []
        for order_id in (str(uuid4()), order.id):
            before = reads.count()

            def has_ended(before: int = before) -> bool:
                return reads.count() > before

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(service, method, requests(order_id)[method], BOB)
            told.append(as_told(caught.value, order_id))
            await until(has_ended)
            asked.append(reads.of_the_last())
        assert told[0] == told[1]
        assert told[0][0] is grpc.StatusCode.NOT_FOUND
        assert asked[0] == asked[1] != []
        kept = await ask(service, "GetOrder", pb.GetOrderRequest(order_id=order.id), ALICE)
        assert kept.order == order


async def test_the_owner_an_auditor_and_an_operator_see_an_order(service: Service) -> None:
    order = await place(service)
    for metadata in (ALICE, AUDITOR, OPERATOR, BOTH):
        for method in ("GetOrder", "WatchOrder"):
            answer = await ask(service, method, requests(order.id)[method], metadata)
            assert answer.order == order
    cancelled = await ask(service, "CancelOrder", pb.CancelOrderRequest(order_id=order.id), ALICE)
    assert cancelled.order.state == order_pb2.ORDER_STATE_CANCELLED


async def test_an_order_is_placed_for_oneself_but_by_operators_for_anybody(
    service: Service,
) -> None:
    for metadata in (BOB, BOTH):
        failure = await refused(service, "CreateOrder", create_request(), metadata)
        assert failure.code is grpc.StatusCode.PERMISSION_DENIED
        assert failure.reason == "OTHER_CUSTOMER"
    order = await place(service, OPERATOR)
    assert order.customer_id == "alice"
    assert (await place(service, BOTH, customer_id="carol")).customer_id == "carol"


async def test_a_list_has_ones_own_orders_only(service: Service) -> None:
    mine = [await place(service) for _ in range(3)]
    his = await place(service, BOB, customer_id="bob")

    async def listed(metadata: Metadata, **query: Any) -> list[order_pb2.Order]:
        request = pb.ListOrdersRequest(**query)
        return list((await ask(service, "ListOrders", request, metadata)).orders)

    assert await listed(ALICE) == mine[::-1]
    assert await listed(ALICE, customer_id="alice") == mine[::-1]
    assert await listed(BOB) == [his]
    assert await listed(OPERATOR) == await listed(AUDITOR) == [his, *mine[::-1]]
    failure = await refused(service, "ListOrders", pb.ListOrdersRequest(customer_id="alice"), BOB)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "OTHER_CUSTOMER",
    )


async def test_a_page_token_is_of_no_use_to_another_customer(service: Service) -> None:
    mine = [await place(service) for _ in range(3)]
    page = await ask(service, "ListOrders", pb.ListOrdersRequest(page_size=2), ALICE)
    following = pb.ListOrdersRequest(page_token=page.next_page_token)
    assert list((await ask(service, "ListOrders", following, ALICE)).orders) == mine[:1]
    everybodys = await ask(service, "ListOrders", pb.ListOrdersRequest(page_size=2), OPERATOR)
    for token in (page.next_page_token, everybodys.next_page_token):
        failure = await refused(service, "ListOrders", pb.ListOrdersRequest(page_token=token), BOB)
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.fields == {"page_token"}


async def test_keys_are_replaced_while_the_service_runs(service: Service, keys: Path) -> None:
    following = Issuer("k2")
    write_set(keys, following.jwk)
    new, old = bearer(following.token()), ALICE

    async def code(metadata: Metadata) -> grpc.StatusCode:
        try:
            await ask(service, "ListOrders", pb.ListOrdersRequest(), metadata)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    deadline = time.monotonic() + 5
    while await code(new) is not grpc.StatusCode.OK:
        assert time.monotonic() < deadline
    assert await code(old) is grpc.StatusCode.UNAUTHENTICATED


async def test_health_and_reflection_are_open(service: Service) -> None:
    health: Any = health_pb2_grpc.HealthStub(service.channel)  # type: ignore[no-untyped-call]
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)  # type: ignore[arg-type]
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async for told in stub.ServerReflectionInfo(iter([asked])):
        names = {each.name for each in told.list_services_response.service}
        assert "orderflow.v1.OrderService" in names


async def test_a_method_that_there_is_not_needs_a_token_as_well(service: Service) -> None:
    method: Any = service.channel.unary_unary("/orderflow.v1.OrderService/DropOrders")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_caller_that_calls_too_often_is_told_when_to_come_back(
    tmp_path: Path, keys: Path
) -> None:
    async with running_service(
        tmp_path, token_keys=keys, rate_limit_per_s=0.01, rate_limit_burst=3
    ) as service:
        request = pb.ListOrdersRequest()
        for _ in range(3):
            await ask(service, "ListOrders", request, ALICE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(service, "ListOrders", request, ALICE)
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "RATE_LIMITED",
        )
        pushback = dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]
        assert 10_000 < int(pushback) <= 100_000
        await ask(service, "ListOrders", request, BOB)


async def test_a_token_is_in_no_status_no_line_and_no_span(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Seen()
    canary = "canary4242"
    good, forged = ISSUER.token("alice"), Issuer("k1").token("alice")
    secrets = [canary, good, forged, good.split(".")[2], forged.split(".")[2]]
    told: list[str] = []
    with logs_put_back():
        lines = configure(level="debug")
        async with running_service(
            tmp_path, token_keys=keys, tracer_provider=seen.tracer_provider
        ) as service:
            for token in (good, forged, canary, f"{canary}.{canary}.{canary}"):
                for method in METHODS:
                    try:
                        await ask(service, method, requests(str(uuid4()))[method], bearer(token))
                    except grpc.aio.AioRpcError as error:
                        told += [error.details() or "", repr(error.trailing_metadata())]
            await until(lambda: len(seen.spans) >= 4 * len(METHODS))
        lines.flush()
    told += [span.to_json() for span in seen.spans]
    told += capsys.readouterr()
    assert sum("TOKEN_INVALID" in text for text in told) > 0
    assert [secret for secret in secrets for text in told if secret in text] == []
