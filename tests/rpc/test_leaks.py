"""No secret in a status, in a span or in the log, at any level, however a call ends."""

from __future__ import annotations

import copy
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Never

import grpc
import pytest
import structlog
from structlog.typing import EventDict, WrappedLogger

from fakes.telemetry import Seen
from harness import ALWAYS_DECLINED, OUTAGE, Service, create_request, running_service, until
from orderflow.payments.v1 import payment_gateway_pb2_grpc
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.storage.sqlite import SqliteDialect
from orderflow_server.telemetry.correlation import add_names
from orderflow_server.telemetry.logs import finishing

TOKEN = "canary-token-4242"
PASSWORD = "canary-password-4242"
DSN = f"postgres://orderflow:{PASSWORD}@db/orders"
SECRETS = (TOKEN, PASSWORD)
MISSING = "0198a3a0-0000-7000-8000-000000000000"


class Log:
    """Everything that is logged, as both renderers write it, and what the libraries log.

    Attributes:
        seen: Keeps every span.
    """

    def __init__(self, libraries: pytest.LogCaptureFixture) -> None:
        self.lines: list[str] = []
        self.seen = Seen()
        self._libraries = libraries
        self._renderers = [
            [structlog.processors.add_log_level, add_names, *finishing(console=console)]
            for console in (False, True)
        ]

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        for renderer in self._renderers:
            rendered: Any = copy.copy(event)
            for process in renderer:
                rendered = process(logger, method, rendered)
            self.lines.append(rendered)
        raise structlog.DropEvent

    @property
    def text(self) -> str:
        """All of it, and every span, its links and events included."""
        spans = [span.to_json() for span in self.seen.spans]
        return "\n".join([*map(str, self.lines), *spans, self._libraries.text])

    def has(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.lines)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    before = structlog.get_config()
    log = Log(caplog)
    structlog.configure(
        processors=[log],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=False,
    )
    with caplog.at_level(logging.DEBUG):
        yield log
    structlog.configure(**before)


@pytest.fixture
async def service(tmp_path: Path, log: Log) -> AsyncIterator[Service]:
    # A path that looks like a database's address, and has a password in it.
    directory = tmp_path / DSN
    directory.mkdir(parents=True)
    async with running_service(directory, tracer_provider=log.seen.tracer_provider) as running:
        yield running


def assert_no_secret(text: str) -> None:
    for secret in SECRETS:
        at = text.find(secret)
        assert at < 0, f"...{text[max(at - 300, 0) : at + 100]}..."


async def status_of(call: Any) -> grpc.StatusCode:
    """How the call ends; all that its caller gets to see has no secret in it."""
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        seen = f"{error!r} {error.details()} {error.debug_error_string()}"
        code = error.code()
    else:
        seen, code = str(response), grpc.StatusCode.OK
    for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
        # The details are bytes, in which a text is found as it is.
        seen += "".join(f"{key}={value!r} " for key, value in metadata or ())
    assert_no_secret(seen)
    return code


def create(service: Service, **changes: Any) -> Any:
    return service.stub.CreateOrder(create_request(payment_token=TOKEN, **changes))


async def test_a_paid_order_a_declined_one_and_one_that_waits(service: Service, log: Log) -> None:
    assert await status_of(create(service)) is grpc.StatusCode.OK
    service.set_faults(ALWAYS_DECLINED)
    assert await status_of(create(service)) is grpc.StatusCode.OK
    service.set_faults(OUTAGE)
    assert await status_of(create(service)) is grpc.StatusCode.OK
    await until(lambda: log.has("payment unresolved"))
    states = {order.state for order in await service.orders()}
    assert states == {
        order_pb2.ORDER_STATE_PAID,
        order_pb2.ORDER_STATE_PAYMENT_DECLINED,
        order_pb2.ORDER_STATE_PENDING_PAYMENT,
    }
    assert log.has('"code":"OK"', "CreateOrder")
    for name in ("orderflow.v1.OrderService/CreateOrder", "store.place", "store.batch"):
        assert log.seen.named(name)
    assert log.seen.named("orderflow.payments.v1.PaymentGateway/Charge attempt")
    assert log.has("order settled")
    assert_no_secret(log.text)


async def test_requests_that_are_refused(service: Service, log: Log) -> None:
    assert await status_of(create(service, items=[])) is grpc.StatusCode.INVALID_ARGUMENT
    long = create_request(payment_token=TOKEN * 100)
    assert await status_of(service.stub.CreateOrder(long)) is grpc.StatusCode.INVALID_ARGUMENT
    # The same request id with another token.
    first = create_request()
    await service.stub.CreateOrder(first)
    other = pb.CreateOrderRequest()
    other.CopyFrom(first)
    other.payment_token = TOKEN
    assert await status_of(service.stub.CreateOrder(other)) is grpc.StatusCode.ALREADY_EXISTS
    get = service.stub.GetOrder(pb.GetOrderRequest(order_id=MISSING))
    assert await status_of(get) is grpc.StatusCode.NOT_FOUND
    by_token = service.stub.ListOrders(pb.ListOrdersRequest(page_token=TOKEN))
    assert await status_of(by_token) is grpc.StatusCode.INVALID_ARGUMENT
    await until(lambda: log.has("ListOrders", "INVALID_ARGUMENT"))
    assert_no_secret(log.text)


async def test_a_request_that_is_no_message(service: Service, log: Log) -> None:
    garbage: Any = service.channel.unary_unary("/orderflow.v1.OrderService/CreateOrder")
    good = create_request(payment_token=TOKEN).SerializeToString()
    assert await status_of(garbage(good[:-1])) is grpc.StatusCode.INVALID_ARGUMENT
    assert await status_of(garbage(b"\xff" + good)) is grpc.StatusCode.INVALID_ARGUMENT
    unknown: Any = service.channel.unary_unary(f"/orderflow.v1.OrderService/{TOKEN}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await until(lambda: log.has("MALFORMED_REQUEST"))
    assert_no_secret(log.text)


async def test_secrets_in_the_metadata(service: Service, log: Log) -> None:
    secret = (
        ("authorization", f"Bearer {TOKEN}"),
        ("x-criticality", TOKEN),
        ("traceparent", TOKEN),
        ("tracestate", TOKEN),
        ("baggage", f"payment_token={TOKEN}"),
    )
    get = service.stub.GetOrder(pb.GetOrderRequest(order_id=MISSING), metadata=secret)
    assert await status_of(get) is grpc.StatusCode.NOT_FOUND
    await until(lambda: log.has("GetOrder"))
    assert_no_secret(log.text)


def lose_the_connection() -> None:
    raise ConnectionError(f"cannot reach {DSN}, password={PASSWORD}, payment_token: {TOKEN!r}")


def break_down() -> None:
    try:
        lose_the_connection()
    except ConnectionError as error:
        raise RuntimeError(f"no orders in {DSN} for {{'payment_token': {TOKEN!r}}}") from error


async def test_an_unexpected_exception_of_the_store_with_secrets_in_its_text(
    service: Service, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        break_down()

    monkeypatch.setattr(SqliteDialect, "get", fail)
    monkeypatch.setattr(SqliteDialect, "_write", lambda *_: break_down())  # in its thread
    get = service.stub.GetOrder(pb.GetOrderRequest(order_id=MISSING))
    assert await status_of(get) is grpc.StatusCode.INTERNAL
    assert await status_of(create(service)) in {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
    await until(lambda: log.has("GetOrder", "INTERNAL") and log.has("CreateOrder"))
    # The cause is there for a person to read, without what nobody may read.
    assert log.has("GetOrder", "no orders in postgres://orderflow:***@db/orders", "ConnectionError")
    assert_no_secret(log.text)


async def test_a_database_that_fails_with_secrets_in_its_text(
    service: Service, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError(f"disk I/O error at {DSN}")

    monkeypatch.setattr("orderflow_server.storage.sqlite.dialect.get_order", fail)
    monkeypatch.setattr("orderflow_server.storage.sqlite.dialect.write_batch", fail)
    get = service.stub.GetOrder(pb.GetOrderRequest(order_id=MISSING))
    assert await status_of(get) is grpc.StatusCode.UNAVAILABLE
    assert await status_of(create(service)) is grpc.StatusCode.UNAVAILABLE
    await until(lambda: log.has("CreateOrder", "UNAVAILABLE", "disk I/O error"))
    assert log.has("attempt failed, retrying")
    assert_no_secret(log.text)


class TalkativeGateway(payment_gateway_pb2_grpc.PaymentGatewayServicer):
    """Refuses each request, and repeats in its answer what it was sent."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    async def Charge(self, request: Any, context: Any) -> Never:  # noqa: N802
        text = f"cannot do {request} at {DSN}"
        await context.abort(self._code, text, (("x-password", PASSWORD),))
        raise AssertionError

    Refund = Void = GetPayment = Charge


@asynccontextmanager
async def talkative(code: grpc.StatusCode) -> AsyncIterator[str]:
    server = grpc.aio.server()
    payment_gateway_pb2_grpc.add_PaymentGatewayServicer_to_server(TalkativeGateway(code), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


REFUSALS: Sequence[grpc.StatusCode] = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
)


@pytest.mark.parametrize("code", REFUSALS, ids=lambda code: code.name)
async def test_a_gateway_that_repeats_what_it_was_sent(
    tmp_path: Path, log: Log, code: grpc.StatusCode
) -> None:
    async with (
        talkative(code) as target,
        running_service(
            tmp_path, tracer_provider=log.seen.tracer_provider, gateway=target
        ) as service,
    ):
        call = create(service)
        assert await status_of(call) is grpc.StatusCode.OK
        order_id = (await call).order.id
        await until(lambda: log.has("payment unresolved", code.name))
        cancel = service.stub.CancelOrder(pb.CancelOrderRequest(order_id=order_id))
        assert await status_of(cancel) is not grpc.StatusCode.OK
    assert_no_secret(log.text)


async def test_the_check_itself_finds_a_secret_in_the_log(log: Log) -> None:
    structlog.get_logger().debug("a slip", value=TOKEN)
    with pytest.raises(AssertionError, match="a slip"):
        assert_no_secret(log.text)


async def test_the_check_itself_finds_a_secret_in_a_span(log: Log) -> None:
    with log.seen.tracer_provider.get_tracer("slips").start_as_current_span("a slip") as span:
        span.set_attribute("value", TOKEN)
    with pytest.raises(AssertionError, match='"value": '):
        assert_no_secret(log.text)
