"""The payment simulator over real gRPC: its contract, its faults, and how it stops."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from google.type import money_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from orderflow.payments.v1 import (
    payment_gateway_pb2,
    payment_gateway_pb2_grpc,
    payment_simulator_pb2,
    payment_simulator_pb2_grpc,
)
from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.money import Money
from orderflow_server.payments.simulator.client import fetch_faults, fetch_ledger, set_faults
from orderflow_server.payments.simulator.faults import Ending, Fate, FaultInjector, Faults, Lie
from orderflow_server.payments.simulator.ledger import EntryKind
from orderflow_server.payments.simulator.server import PaymentSimulator, run

GRACE_S = 0.1
SECRET = "tok_secret_4242"  # what must never come back


@dataclass
class Gateway:
    """A running simulator and a plain channel to it: no retries, no deadlines but the given."""

    simulator: PaymentSimulator
    channel: grpc.aio.Channel
    stub: payment_gateway_pb2_grpc.PaymentGatewayAsyncStub

    async def charge(
        self, key: str = "k", *, units: int = 10, timeout: float | None = 5
    ) -> payment_gateway_pb2.Payment:
        response = await self.stub.Charge(charge_request(key, units=units), timeout=timeout)
        return response.payment

    async def refund(self, key: str = "k") -> payment_gateway_pb2.Payment:
        request = payment_gateway_pb2.RefundRequest(idempotency_key=key)
        return (await self.stub.Refund(request, timeout=5)).payment

    async def void(self, key: str = "k") -> payment_gateway_pb2.Payment:
        request = payment_gateway_pb2.VoidRequest(idempotency_key=key, reference="order 1")
        return (await self.stub.Void(request, timeout=5)).payment

    async def get(self, key: str = "k") -> payment_gateway_pb2.Payment:
        request = payment_gateway_pb2.GetPaymentRequest(idempotency_key=key)
        return (await self.stub.GetPayment(request, timeout=5)).payment

    def booked(self) -> list[EntryKind]:
        return [entry.kind for entry in self.simulator.ledger.entries()]


def charge_request(key: str, *, units: int = 10) -> payment_gateway_pb2.ChargeRequest:
    return payment_gateway_pb2.ChargeRequest(
        idempotency_key=key,
        reference="order 1",
        amount=money_pb2.Money(currency_code="EUR", units=units),
        payment_token=SECRET,
    )


@asynccontextmanager
async def serving(simulator: PaymentSimulator) -> AsyncIterator[Gateway]:
    async with simulator, grpc.aio.insecure_channel(simulator.target) as channel:
        yield Gateway(simulator, channel, payment_gateway_pb2_grpc.PaymentGatewayStub(channel))


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with serving(PaymentSimulator(grace_s=GRACE_S)) as gateway:
        yield gateway


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status_of(error).details)
    assert info.domain == "orderflow"
    return info.reason


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    status: status_pb2.Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what a call has
    assert status is not None
    return status


# --- the contract ---------------------------------------------------------------------


async def test_200_charges_at_once_under_one_key_move_the_money_once(gateway: Gateway) -> None:
    payments = await asyncio.gather(*(gateway.charge() for _ in range(200)))

    assert all(payment == payments[0] for payment in payments)
    assert payments[0].state == payment_gateway_pb2.PAYMENT_STATE_CHARGED
    assert gateway.booked() == [EntryKind.CHARGE]


async def test_a_key_reused_with_another_amount_is_already_exists(gateway: Gateway) -> None:
    await gateway.charge(units=10)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.charge(units=11)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(caught.value) == "IDEMPOTENCY_KEY_REUSED"


async def test_a_voided_key_is_never_charged(gateway: Gateway) -> None:
    voided = await gateway.void()

    assert voided.state == payment_gateway_pb2.PAYMENT_STATE_VOIDED
    assert not voided.HasField("amount")
    assert await gateway.charge() == voided
    assert gateway.booked() == []


async def test_a_void_after_the_charge_tells_that_it_came_too_late(gateway: Gateway) -> None:
    charged = await gateway.charge()

    assert await gateway.void() == charged
    assert await gateway.get() == charged


async def test_the_money_is_given_back_once(gateway: Gateway) -> None:
    await gateway.charge()
    refunds = await asyncio.gather(*(gateway.refund() for _ in range(20)))

    assert {payment.state for payment in refunds} == {payment_gateway_pb2.PAYMENT_STATE_REFUNDED}
    assert gateway.booked() == [EntryKind.CHARGE, EntryKind.REFUND]


async def test_a_voided_payment_cannot_be_refunded(gateway: Gateway) -> None:
    await gateway.void()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.refund()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(caught.value) == "PAYMENT_NOT_CHARGED"


async def test_there_is_nothing_under_an_unused_key(gateway: Gateway) -> None:
    for ask in (gateway.refund, gateway.get):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert reason_of(caught.value) == "PAYMENT_NOT_FOUND"


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (
            payment_gateway_pb2.ChargeRequest(payment_token=SECRET * 50),
            {"idempotency_key", "reference", "amount", "payment_token"},
        ),
        (charge_request("k", units=-1), {"amount"}),
        (
            payment_gateway_pb2.ChargeRequest(
                idempotency_key="k",
                reference="r",
                amount=money_pb2.Money(units=1),
                payment_token=SECRET,
            ),
            {"amount"},  # no currency: no rule of the contract says so
        ),
    ],
)
async def test_a_request_that_breaks_a_rule_is_named_field_by_field(
    gateway: Gateway, request_: payment_gateway_pb2.ChargeRequest, fields: set[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.Charge(request_, timeout=5)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "INVALID_REQUEST"
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in status_of(caught.value).details)
    assert {violation.field for violation in bad_request.field_violations} == fields
    assert SECRET not in str(status_of(caught.value))
    assert gateway.booked() == []


# --- the faults -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "reason"),
    [(Faults(outage=True), "SIMULATED_OUTAGE"), (Faults(error_rate=1), "SIMULATED_ERROR")],
)
async def test_an_outage_and_an_error_fail_before_anything_is_done(
    gateway: Gateway, faults: Faults, reason: str
) -> None:
    gateway.simulator.injector.faults = faults
    for ask in (gateway.charge, gateway.refund, gateway.void, gateway.get):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(caught.value) == reason

    gateway.simulator.injector.faults = Faults()
    with pytest.raises(grpc.aio.AioRpcError, match="there is no payment"):
        await gateway.get()


async def test_a_call_that_times_out_did_nothing(gateway: Gateway) -> None:
    gateway.simulator.injector.faults = Faults(timeout_rate=1)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.charge(timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert gateway.booked() == []


async def test_a_lost_answer_leaves_one_charge_for_the_repetition_to_find(
    gateway: Gateway,
) -> None:
    gateway.simulator.injector.faults = Faults(lost_answer_rate=1)
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.charge(timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    gateway.simulator.injector.faults = Faults()
    assert (await gateway.charge()).state == payment_gateway_pb2.PAYMENT_STATE_CHARGED
    assert gateway.booked() == [EntryKind.CHARGE]


async def test_only_charges_of_the_hanging_token_hang(gateway: Gateway) -> None:
    gateway.simulator.injector.faults = Faults(hanging_token=SECRET)
    other = charge_request("other")
    other.payment_token = "tok_other"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.charge(timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert gateway.booked() == []
    await gateway.stub.Charge(other, timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match="there is no payment"):
        await gateway.get()

    gateway.simulator.injector.faults = Faults()
    assert (await gateway.charge()).state == payment_gateway_pb2.PAYMENT_STATE_CHARGED
    assert gateway.booked() == [EntryKind.CHARGE] * 2


@pytest.mark.parametrize("code", ["UNIMPLEMENTED", "UNAUTHENTICATED"])
async def test_every_call_is_refused_with_the_code_and_does_nothing(
    gateway: Gateway, code: str
) -> None:
    gateway.simulator.injector.faults = Faults(refuse_code=code)
    for ask in (gateway.charge, gateway.refund, gateway.void, gateway.get):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask()
        assert caught.value.code() is grpc.StatusCode[code]
        assert reason_of(caught.value) == "SIMULATED_REFUSAL"

    gateway.simulator.injector.faults = Faults()
    with pytest.raises(grpc.aio.AioRpcError, match="there is no payment"):
        await gateway.get()


class Liar(FaultInjector):
    """Puts the same lie into every answer."""

    def __init__(self, lie: Lie) -> None:
        super().__init__(Random(1), Faults())
        self._lie = lie

    def draw(self, payment_token: str = "") -> Fate:
        return Fate(ending=Ending.ANSWER, latency_s=0.0, declines=False, lie=self._lie)


@pytest.fixture
async def lying(request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    simulator = PaymentSimulator(grace_s=GRACE_S)
    simulator.injector = Liar(request.param)
    async with serving(simulator) as gateway:
        yield gateway


LIES = {
    Lie.OTHER_KEY: ("other-k", 10, "EUR", payment_gateway_pb2.PAYMENT_STATE_CHARGED),
    Lie.OTHER_AMOUNT: ("k", 1010, "EUR", payment_gateway_pb2.PAYMENT_STATE_CHARGED),
    Lie.OTHER_CURRENCY: ("k", 10, "USD", payment_gateway_pb2.PAYMENT_STATE_CHARGED),
    Lie.OTHER_STATE: ("k", 10, "EUR", payment_gateway_pb2.PAYMENT_STATE_REFUNDED),
}


@pytest.mark.parametrize(("lying", "answer"), LIES.items(), indirect=["lying"])
async def test_a_lie_is_in_the_answer_and_the_ledger_has_the_truth(
    lying: Gateway, answer: tuple[object, ...]
) -> None:
    for payment in (await lying.charge(), await lying.get(), await lying.void()):
        amount = payment.amount
        assert (
            payment.idempotency_key,
            amount.units,
            amount.currency_code,
            payment.state,
        ) == answer
    (entry,) = lying.simulator.ledger.entries()
    assert (entry.key, entry.amount, entry.kind) == ("k", Money("EUR", 10), EntryKind.CHARGE)


@pytest.mark.parametrize("lying", [Lie.OTHER_STATE], indirect=True)
async def test_a_lie_about_a_refund_denies_it(lying: Gateway) -> None:
    await lying.charge()
    assert (await lying.refund()).state == payment_gateway_pb2.PAYMENT_STATE_CHARGED
    assert lying.booked() == [EntryKind.CHARGE, EntryKind.REFUND]


@pytest.mark.parametrize("lying", [Lie.UNPARSEABLE, Lie.INVALID_TEXT], indirect=True)
async def test_an_answer_that_cannot_be_parsed_leaves_the_charge_made(lying: Gateway) -> None:
    charge: Any = lying.channel.unary_unary(
        "/orderflow.payments.v1.PaymentGateway/Charge",
        request_serializer=payment_gateway_pb2.ChargeRequest.SerializeToString,
    )
    answer: bytes = await charge(charge_request("k"), timeout=5)

    with pytest.raises(DecodeError):
        payment_gateway_pb2.ChargeResponse.FromString(answer)
    assert lying.booked() == [EntryKind.CHARGE]


async def test_a_decline_is_decided_once(gateway: Gateway) -> None:
    gateway.simulator.injector.faults = Faults(decline_rate=1)
    declined = await gateway.charge()
    gateway.simulator.injector.faults = Faults()

    assert declined.state == payment_gateway_pb2.PAYMENT_STATE_DECLINED
    assert declined.decline_reason
    assert await gateway.charge() == declined
    assert gateway.booked() == []


async def test_the_latency_passes_before_the_money_moves() -> None:
    asked: list[float] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(delay_s: float) -> None:
        asked.append(delay_s)
        begun.set()
        await go_on.wait()

    slow = PaymentSimulator(faults=Faults(latency_median_s=30), grace_s=GRACE_S, sleep=sleep)
    async with serving(slow) as gateway:
        charge = asyncio.create_task(gateway.charge())
        await begun.wait()
        assert gateway.booked() == []
        go_on.set()
        await charge

    assert asked == [30]
    assert gateway.booked() == [EntryKind.CHARGE]


async def history(seed: int) -> list[str]:
    """How 40 calls in a row end."""
    faults = Faults(error_rate=0.3, decline_rate=0.5)
    outcomes = []
    async with serving(PaymentSimulator(seed=seed, faults=faults, grace_s=GRACE_S)) as gateway:
        for number in range(40):
            try:
                payment = await gateway.charge(f"k{number}")
            except grpc.aio.AioRpcError as error:
                outcomes.append(error.code().name)
            else:
                outcomes.append(payment_gateway_pb2.PaymentState.Name(payment.state))
    return outcomes


async def test_a_seed_reproduces_the_same_faults() -> None:
    once, again, other = await history(1), await history(1), await history(2)

    assert once == again
    assert once != other
    assert set(once) == {"UNAVAILABLE", "PAYMENT_STATE_CHARGED", "PAYMENT_STATE_DECLINED"}


# --- the controls ---------------------------------------------------------------------


async def test_faults_are_changed_while_it_runs(gateway: Gateway) -> None:
    faults = Faults(
        outage=True,
        error_rate=0.1,
        timeout_rate=0.2,
        lost_answer_rate=0.3,
        decline_rate=0.4,
        latency_median_s=0.25,
        latency_sigma=0.5,
        hanging_token="tok_hangs",
        lie_rate=0.6,
        refuse_code="UNIMPLEMENTED",
    )
    target = gateway.simulator.target

    assert await fetch_faults(target) == Faults()
    assert await set_faults(target, faults) == faults
    assert await fetch_faults(target) == faults
    with pytest.raises(grpc.aio.AioRpcError):
        await gateway.charge()
    await set_faults(target, Faults())
    await gateway.charge()


async def test_calls_keep_the_faults_they_began_with() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(_delay_s: float) -> None:
        begun.set()
        await go_on.wait()

    slow = Faults(latency_median_s=1)
    async with serving(PaymentSimulator(faults=slow, grace_s=GRACE_S, sleep=sleep)) as gateway:
        charge = asyncio.create_task(gateway.charge())
        await begun.wait()
        gateway.simulator.injector.faults = Faults(error_rate=1, decline_rate=1)
        go_on.set()
        assert (await charge).state == payment_gateway_pb2.PAYMENT_STATE_CHARGED


async def test_faults_out_of_range_are_refused_and_change_nothing(gateway: Gateway) -> None:
    stub = payment_simulator_pb2_grpc.PaymentSimulatorServiceStub(gateway.channel)
    request = payment_simulator_pb2.SetFaultsRequest(
        faults=payment_simulator_pb2.Faults(error_rate=1.5)
    )
    with pytest.raises(grpc.aio.AioRpcError, match=r"faults\.error_rate"):
        await stub.SetFaults(request, timeout=5)
    assert gateway.simulator.injector.faults == Faults()


async def test_the_ledger_tells_every_movement_in_order(gateway: Gateway) -> None:
    for number in range(50):
        await gateway.charge(f"k{number}", units=number)
    await gateway.refund("k7")

    entries = await fetch_ledger(gateway.simulator.target)

    assert entries == list(gateway.simulator.ledger.entries())
    assert [entry.key for entry in entries] == [f"k{number}" for number in range(50)] + ["k7"]
    assert entries[7].amount == entries[-1].amount == Money("EUR", 7)
    assert [entry.kind for entry in entries] == [EntryKind.CHARGE] * 50 + [EntryKind.REFUND]


# --- the server -----------------------------------------------------------------------


async def test_health_says_serving(gateway: Gateway) -> None:
    stub = health_pb2_grpc.HealthStub(gateway.channel)  # type: ignore[no-untyped-call]  # no types
    for service in ("", "orderflow.payments.v1.PaymentGateway"):
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services(gateway: Gateway) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)  # type: ignore[arg-type]  # its types know no aio
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([request]), timeout=5)
    names = [
        service.name async for answer in call for service in answer.list_services_response.service
    ]

    assert "orderflow.payments.v1.PaymentGateway" in names
    assert "orderflow.payments.v1.PaymentSimulatorService" in names


async def test_stopping_with_calls_that_hang_takes_no_longer_than_the_grace() -> None:
    faults = Faults(timeout_rate=0.5, lost_answer_rate=1)
    foretold = FaultInjector(Random(3), faults)
    losses = sum(foretold.draw().ending is Ending.LOST_ANSWER for _ in range(40))
    bookings = 0
    all_booked = asyncio.Event()

    def now() -> datetime:
        nonlocal bookings
        bookings += 1
        if bookings == losses:
            all_booked.set()
        return datetime(2025, 1, 1, tzinfo=UTC)

    simulator = PaymentSimulator(seed=3, faults=faults, grace_s=GRACE_S, now=now)
    async with serving(simulator) as gateway:
        hung = [
            asyncio.create_task(gateway.charge(f"k{number}", timeout=None)) for number in range(40)
        ]
        await all_booked.wait()

        begun = time.monotonic()
        await simulator.stop()
        took_s = time.monotonic() - begun
        endings = await asyncio.gather(*hung, return_exceptions=True)

    assert 0 < losses < 40
    assert took_s < GRACE_S + 1
    assert all(isinstance(ending, grpc.aio.AioRpcError) for ending in endings)


async def test_a_port_in_use_is_an_error(gateway: Gateway) -> None:
    port = int(gateway.simulator.target.rpartition(":")[2])
    with pytest.raises(RuntimeError):
        await PaymentSimulator(port=port).start()


async def test_calls_do_not_inherit_the_deadline_of_who_started_the_server() -> None:
    seen: list[Deadline | None] = []

    async def sleep(_delay_s: float) -> None:
        seen.append(deadline.current())

    with deadline.within(Deadline.after(60)):
        slow = PaymentSimulator(faults=Faults(latency_median_s=1), sleep=sleep, grace_s=GRACE_S)
        async with serving(slow) as gateway:
            await gateway.charge()

    assert seen == [None]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    program = (
        f"import asyncio; from {run.__module__} import Faults, run;"
        "asyncio.run(run(host='127.0.0.1', port=0, seed=1, faults=Faults(timeout_rate=1)))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    target = re.search(r"127\.0\.0\.1:\d+", line)
    assert target, line
    async with grpc.aio.insecure_channel(target[0]) as channel:
        stub = payment_gateway_pb2_grpc.PaymentGatewayStub(channel)
        hung = asyncio.ensure_future(stub.Charge(charge_request("k"), timeout=30))
        assert (await fetch_faults(target[0])).timeout_rate == 1
        process.send_signal(number)
        with pytest.raises(grpc.aio.AioRpcError):
            await hung

    assert await asyncio.wait_for(process.wait(), 10) == 0
