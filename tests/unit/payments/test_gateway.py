"""The gateway's adapter: what each answer means, and that nothing is lost or charged twice."""

# ruff: noqa: N802  the contract names the methods

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.type.money_pb2 import Money as Money_pb2
from msgspec import structs

from orderflow.payments.v1 import payment_gateway_pb2, payment_gateway_pb2_grpc
from orderflow_client.channel import open_channel
from orderflow_client.contract import contracts
from orderflow_client.resilience import deadline
from orderflow_client.resilience.attempt_timeout import extended
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import OrderError, PaymentInvalid, PaymentUnresolved
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderDraft, OrderItem
from orderflow_server.orders.ports import Payment, PaymentGateway, PaymentState
from orderflow_server.payments.gateway import (
    MAX_DECLINE_REASON,
    GrpcPaymentGateway,
    PaymentRefused,
)
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.ledger import EntryKind
from orderflow_server.payments.simulator.server import PaymentSimulator

CONTRACT = contracts(payment_gateway_pb2.DESCRIPTOR.services_by_name["PaymentGateway"])
SECRET = "tok_secret_4242"
ORDER = Order.place(
    OrderDraft(
        request_id=UUID(int=1),
        customer_id="customer",
        items=(OrderItem("sku", 2, Money("EUR", 5, 250_000_000)),),
        payment_token=SECRET,
    ),
    order_id=UUID(int=2),
    now=datetime(2025, 1, 1, tzinfo=UTC),
)


PATIENT = BreakerOptions(minimum_attempts=1_000_000)
"""A breaker that stays closed: what the adapter makes of each failure is asked here."""


@asynccontextmanager
async def adapter(target: str) -> AsyncIterator[PaymentGateway]:
    async with open_channel(
        target, contract=CONTRACT, breaker=PATIENT, only_awaited=True
    ) as channel:
        yield GrpcPaymentGateway(channel)


@pytest.fixture
async def simulator() -> AsyncIterator[PaymentSimulator]:
    async with PaymentSimulator(grace_s=0.1) as simulator:
        yield simulator


@pytest.fixture
async def gateway(simulator: PaymentSimulator) -> AsyncIterator[PaymentGateway]:
    async with adapter(simulator.target) as gateway:
        yield gateway


def booked(simulator: PaymentSimulator) -> list[EntryKind]:
    return [entry.kind for entry in simulator.ledger.entries()]


# --- answers --------------------------------------------------------------------------


async def test_a_charge_takes_the_order_s_total_under_its_key(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    assert await gateway.charge(ORDER) == Payment(PaymentState.CHARGED)

    (entry,) = simulator.ledger.entries()
    assert (entry.key, entry.reference) == (ORDER.payment_key, str(ORDER.id))
    assert entry.amount == Money("EUR", 10, 500_000_000)


async def test_a_decline_is_an_answer_with_the_gateway_s_words(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    simulator.injector.faults = Faults(decline_rate=1)
    payment = await gateway.charge(ORDER)

    assert payment.state is PaymentState.DECLINED
    assert payment.decline_reason


async def test_a_refund_may_be_repeated(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    await gateway.charge(ORDER)
    for _ in range(2):
        assert await gateway.refund(ORDER) == Payment(PaymentState.REFUNDED)

    assert booked(simulator) == [EntryKind.CHARGE, EntryKind.REFUND]


async def test_a_void_rules_out_a_later_charge(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    assert await gateway.void(ORDER) == Payment(PaymentState.VOIDED)
    assert await gateway.charge(ORDER) == Payment(PaymentState.VOIDED)
    assert booked(simulator) == []


async def test_a_void_tells_what_became_of_a_charge_whose_answer_was_lost(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    simulator.injector.faults = Faults(lost_answer_rate=1)
    with deadline.within(Deadline.after(0.2)), pytest.raises(PaymentUnresolved):
        await gateway.charge(ORDER)

    simulator.injector.faults = Faults()
    assert await gateway.void(ORDER) == Payment(PaymentState.CHARGED)
    assert booked(simulator) == [EntryKind.CHARGE]


# --- failures -------------------------------------------------------------------------


async def test_an_outage_leaves_the_payment_unresolved_and_names_the_real_error(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    simulator.injector.faults = Faults(outage=True)
    with pytest.raises(PaymentUnresolved) as caught:
        await gateway.charge(ORDER)

    assert caught.value.order_id == ORDER.id
    cause = caught.value.__cause__
    assert isinstance(cause, grpc.aio.AioRpcError)
    assert cause.code() is grpc.StatusCode.UNAVAILABLE


async def test_many_orders_through_every_fault_are_each_charged_once(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    simulator.injector.faults = Faults(
        error_rate=0.3, timeout_rate=0.1, lost_answer_rate=0.3, decline_rate=0.2
    )
    orders = [structs.replace(ORDER, id=UUID(int=100 + number)) for number in range(40)]

    async def until_known(order: Order) -> Payment:
        for _ in range(200):
            try:
                with deadline.within(Deadline.after(0.15)):
                    return await gateway.charge(order)
            except PaymentUnresolved:
                continue
        raise AssertionError("no answer in 200 attempts")

    payments = await asyncio.gather(*(until_known(order) for order in orders))

    charged = {
        order.payment_key
        for order, payment in zip(orders, payments, strict=True)
        if payment.state is PaymentState.CHARGED
    }
    entries = simulator.ledger.entries()
    assert sorted(entry.key for entry in entries) == sorted(charged)
    assert 0 < len(charged) < len(orders)


async def test_a_refused_request_surfaces_as_the_defect_it_is(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    await gateway.charge(ORDER)
    other_total = structs.replace(ORDER, total=Money("EUR", 11))
    with pytest.raises(PaymentRefused) as reused:
        await gateway.charge(other_total)

    assert reused.value.code is grpc.StatusCode.ALREADY_EXISTS
    assert reused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert not isinstance(reused.value, OrderError)
    assert booked(simulator) == [EntryKind.CHARGE]


async def test_refunding_what_was_never_charged_is_refused(gateway: PaymentGateway) -> None:
    with pytest.raises(PaymentRefused) as unknown:
        await gateway.refund(ORDER)
    assert unknown.value.reason == "PAYMENT_NOT_FOUND"

    await gateway.void(ORDER)
    with pytest.raises(PaymentRefused) as voided:
        await gateway.refund(ORDER)
    assert voided.value.reason == "PAYMENT_NOT_CHARGED"


async def test_the_payment_token_is_in_no_error(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    too_long = structs.replace(ORDER, payment_token=SECRET * 50)
    with pytest.raises(PaymentRefused) as refused:
        await gateway.charge(too_long)
    simulator.injector.faults = Faults(outage=True)
    with pytest.raises(PaymentUnresolved) as unresolved:
        await gateway.charge(ORDER)

    for caught in (refused, unresolved):
        assert SECRET not in "".join(traceback.format_exception(caught.value))


# --- time -----------------------------------------------------------------------------


async def test_a_call_keeps_to_the_ambient_deadline(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    simulator.injector.faults = Faults(timeout_rate=1)
    ambient = Deadline.after(0.2)
    with deadline.within(ambient), pytest.raises(PaymentUnresolved) as caught:
        await gateway.charge(ORDER)

    assert -1 < ambient.remaining_s() < 0.01
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert caught.value.__cause__.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# --- a gateway that answers as it is told ---------------------------------------------


class ScriptedGateway(payment_gateway_pb2_grpc.PaymentGatewayServicer):
    """Ends every call with one status, or one payment state, and counts the calls."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.state: Any = payment_gateway_pb2.PAYMENT_STATE_CHARGED
        self.change: Callable[[payment_gateway_pb2.Payment], object] = lambda _: None
        self.hang = False
        self.delay_s = 0.0
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.calls = 0

    async def _answer(
        self, context: grpc.aio.ServicerContext[Any, Any]
    ) -> payment_gateway_pb2.Payment:
        self.calls += 1
        self.begun.set()
        await asyncio.sleep(self.delay_s)
        if self.hang:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if self.code is not None:
            await context.abort(self.code, "as told")
        total = ORDER.total
        payment = payment_gateway_pb2.Payment(
            idempotency_key=ORDER.payment_key,
            reference=str(ORDER.id),
            amount=Money_pb2(
                currency_code=total.currency_code, units=total.units, nanos=total.nanos
            ),
            state=self.state,
        )
        self.change(payment)
        return payment

    async def Charge(
        self, request: payment_gateway_pb2.ChargeRequest, context: Any
    ) -> payment_gateway_pb2.ChargeResponse:
        return payment_gateway_pb2.ChargeResponse(payment=await self._answer(context))

    async def Refund(
        self, request: payment_gateway_pb2.RefundRequest, context: Any
    ) -> payment_gateway_pb2.RefundResponse:
        return payment_gateway_pb2.RefundResponse(payment=await self._answer(context))

    async def Void(
        self, request: payment_gateway_pb2.VoidRequest, context: Any
    ) -> payment_gateway_pb2.VoidResponse:
        return payment_gateway_pb2.VoidResponse(payment=await self._answer(context))

    async def GetPayment(
        self, request: payment_gateway_pb2.GetPaymentRequest, context: Any
    ) -> payment_gateway_pb2.GetPaymentResponse:
        return payment_gateway_pb2.GetPaymentResponse(payment=await self._answer(context))


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[ScriptedGateway, PaymentGateway]]:
    script = ScriptedGateway()
    server = grpc.aio.server()
    payment_gateway_pb2_grpc.add_PaymentGatewayServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with adapter(f"127.0.0.1:{port}") as gateway:
        yield script, gateway
    await server.stop(0)


UNKNOWN_OUTCOME = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAUTHENTICATED,
}


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
)
async def test_every_status_means_what_the_table_says(
    scripted: tuple[ScriptedGateway, PaymentGateway], code: grpc.StatusCode
) -> None:
    script, gateway = scripted
    script.code = code
    expected = PaymentUnresolved if code in UNKNOWN_OUTCOME else PaymentRefused

    for ask in (gateway.charge, gateway.refund, gateway.void):
        with pytest.raises(expected) as caught:
            await ask(ORDER)
        cause = caught.value.__cause__
        assert isinstance(cause, grpc.aio.AioRpcError)
        assert cause.code() is code


@pytest.mark.parametrize("state", [payment_gateway_pb2.PAYMENT_STATE_UNSPECIFIED, 99])
async def test_a_payment_state_nobody_knows_is_no_answer(
    scripted: tuple[ScriptedGateway, PaymentGateway], state: int
) -> None:
    script, gateway = scripted
    script.state = state
    for ask in (gateway.charge, gateway.refund, gateway.void):
        with pytest.raises(PaymentUnresolved) as caught:
            await ask(ORDER)
        assert isinstance(caught.value.__cause__, ValueError)


# --- answers that do not fit the question ---------------------------------------------


@pytest.mark.parametrize("state", ["CHARGED", "DECLINED", "VOIDED"])
async def test_refund_answered_with_another_state_is_invalid(
    scripted: tuple[ScriptedGateway, PaymentGateway], state: str
) -> None:
    script, gateway = scripted
    script.state = f"PAYMENT_STATE_{state}"
    with pytest.raises(PaymentInvalid, match=f"{state} is no answer") as caught:
        await gateway.refund(ORDER)
    assert caught.value.problem == "state"


OTHER = "order-00000000-0000-0000-0000-00000000dead"
WRONG: dict[str, tuple[str, Callable[[payment_gateway_pb2.Payment], object]]] = {
    "another key": ("idempotency_key", lambda p: setattr(p, "idempotency_key", OTHER)),
    "no key": ("idempotency_key", lambda p: p.ClearField("idempotency_key")),
    "1000 more": ("amount", lambda p: setattr(p.amount, "units", p.amount.units + 1000)),
    "a nano less": ("amount", lambda p: setattr(p.amount, "nanos", p.amount.nanos - 1)),
    "another currency": ("currency", lambda p: setattr(p.amount, "currency_code", "USD")),
    "no amount": ("currency", lambda p: p.ClearField("amount")),
    "empty": ("idempotency_key", lambda p: p.Clear()),
}


@pytest.mark.parametrize(("problem", "change"), WRONG.values(), ids=WRONG)
async def test_answer_about_another_payment_is_invalid(
    scripted: tuple[ScriptedGateway, PaymentGateway],
    problem: str,
    change: Callable[[payment_gateway_pb2.Payment], object],
) -> None:
    script, gateway = scripted
    script.change = change
    for ask in (gateway.find, gateway.charge, gateway.void):
        with pytest.raises(PaymentInvalid) as caught:
            await ask(ORDER)
        assert caught.value.problem == problem


async def test_void_before_any_charge_has_no_amount(
    scripted: tuple[ScriptedGateway, PaymentGateway],
) -> None:
    script, gateway = scripted
    script.state = payment_gateway_pb2.PAYMENT_STATE_VOIDED
    script.change = lambda payment: payment.ClearField("amount")
    assert await gateway.void(ORDER) == Payment(PaymentState.VOIDED)


async def test_long_decline_reason_is_cut(
    scripted: tuple[ScriptedGateway, PaymentGateway],
) -> None:
    script, gateway = scripted
    script.state = payment_gateway_pb2.PAYMENT_STATE_DECLINED
    script.change = lambda payment: setattr(payment, "decline_reason", "x" * 2_000_000)
    assert (await gateway.charge(ORDER)).decline_reason == "x" * MAX_DECLINE_REASON


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff\xff\xff",  # no protobuf message
        b"\x0a\x05\x2a\x03\xff\xfe\xfd",  # a decline_reason that is not UTF-8
    ],
)
async def test_message_that_cannot_be_parsed_is_invalid(answer: bytes) -> None:
    async def reply(_request: bytes, _context: object) -> bytes:
        return answer

    service = "orderflow.payments.v1.PaymentGateway"
    methods = ("Charge", "GetPayment", "Void", "Refund")
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(reply) for name in methods
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with adapter(f"127.0.0.1:{port}") as gateway:
        for ask in (gateway.find, gateway.charge, gateway.refund, gateway.void):
            with pytest.raises(PaymentInvalid) as caught:
                await ask(ORDER)
            assert caught.value.problem == "message"
    await server.stop(0)


# --- asking about a payment -----------------------------------------------------------


async def test_find_returns_none_where_there_is_no_payment(gateway: PaymentGateway) -> None:
    assert await gateway.find(ORDER) is None


async def test_find_returns_the_payment_as_it_is(
    gateway: PaymentGateway, simulator: PaymentSimulator
) -> None:
    await gateway.charge(ORDER)
    assert await gateway.find(ORDER) == Payment(PaymentState.CHARGED)
    assert booked(simulator) == [EntryKind.CHARGE]


async def test_background_work_waits_longer_for_an_answer_than_an_attempt_may_take(
    scripted: tuple[ScriptedGateway, PaymentGateway],
) -> None:
    script, gateway = scripted
    script.delay_s = 1.1  # An attempt of a caller may take 1 s.
    with deadline.within(Deadline.after(1.05)), pytest.raises(PaymentUnresolved):
        await gateway.charge(ORDER)
    with extended(30.0):
        assert await gateway.charge(ORDER) == Payment(PaymentState.CHARGED)


# --- deadlines and cancellation -------------------------------------------------------


async def test_after_the_deadline_nothing_is_sent(
    scripted: tuple[ScriptedGateway, PaymentGateway],
) -> None:
    script, gateway = scripted
    for ask in (gateway.charge, gateway.refund, gateway.void):
        with deadline.within(Deadline.after(-1)), pytest.raises(PaymentUnresolved):
            await ask(ORDER)
    assert script.calls == 0

    await gateway.charge(ORDER)
    assert script.calls == 1


async def test_a_cancelled_caller_cancels_the_call_and_sees_its_own_cancellation(
    scripted: tuple[ScriptedGateway, PaymentGateway],
) -> None:
    script, gateway = scripted
    script.hang = True
    charge = asyncio.create_task(gateway.charge(ORDER))
    await script.begun.wait()

    charge.cancel()
    with pytest.raises(asyncio.CancelledError):
        await charge
    await asyncio.wait_for(script.cancelled.wait(), 5)
