"""The gateway's contract over the ledger, with the faults in between, and the faults' controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Never, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from orderflow.payments.v1 import (
    payment_gateway_pb2,
    payment_gateway_pb2_grpc,
    payment_simulator_pb2,
    payment_simulator_pb2_grpc,
)
from orderflow_server.orders.money import MoneyError
from orderflow_server.payments.simulator.faults import Ending, Fate, FaultInjector
from orderflow_server.payments.simulator.ledger import Ledger, LedgerError, LedgerPayment
from orderflow_server.payments.simulator.lies import told
from orderflow_server.payments.simulator.refusals import Refusal, check, refuse
from orderflow_server.payments.simulator.wire import (
    entry_to_proto,
    faults_from_proto,
    faults_to_proto,
    write_payment,
)
from orderflow_server.payments.wire import money_from_proto

Context = ServicerContext[Any, Any]
Sleep = Callable[[float], Awaitable[None]]
"""Waits for so many seconds."""

_Response = TypeVar(
    "_Response",
    payment_gateway_pb2.ChargeResponse,
    payment_gateway_pb2.RefundResponse,
    payment_gateway_pb2.VoidResponse,
    payment_gateway_pb2.GetPaymentResponse,
)

_log = structlog.get_logger(__name__)

DECLINE_REASON = "simulated: card declined"


class PaymentGatewayServicer(payment_gateway_pb2_grpc.PaymentGatewayServicer):
    """Books what it is asked to, unless the faults will have it otherwise."""

    def __init__(self, ledger: Ledger, injector: FaultInjector, sleep: Sleep) -> None:
        self._ledger = ledger
        self._injector = injector
        self._sleep = sleep

    async def Charge(
        self, request: payment_gateway_pb2.ChargeRequest, context: Context
    ) -> payment_gateway_pb2.ChargeResponse:
        def book(fate: Fate) -> LedgerPayment:
            try:
                amount = money_from_proto(request.amount)
            except MoneyError as error:
                raise Refusal.invalid({"amount": str(error)}) from error
            return self._ledger.charge(
                request.idempotency_key,
                reference=request.reference,
                amount=amount,
                decline_reason=DECLINE_REASON if fate.declines else "",
            )

        fate = self._injector.draw(request.payment_token)
        return await self._answer(fate, request, context, book, payment_gateway_pb2.ChargeResponse)

    async def Refund(
        self, request: payment_gateway_pb2.RefundRequest, context: Context
    ) -> payment_gateway_pb2.RefundResponse:
        def book(_fate: Fate) -> LedgerPayment:
            return self._ledger.refund(request.idempotency_key)

        fate = self._injector.draw()
        return await self._answer(fate, request, context, book, payment_gateway_pb2.RefundResponse)

    async def Void(
        self, request: payment_gateway_pb2.VoidRequest, context: Context
    ) -> payment_gateway_pb2.VoidResponse:
        def book(_fate: Fate) -> LedgerPayment:
            return self._ledger.void(request.idempotency_key, reference=request.reference)

        fate = self._injector.draw()
        return await self._answer(fate, request, context, book, payment_gateway_pb2.VoidResponse)

    async def GetPayment(
        self, request: payment_gateway_pb2.GetPaymentRequest, context: Context
    ) -> payment_gateway_pb2.GetPaymentResponse:
        def book(_fate: Fate) -> LedgerPayment:
            return self._ledger.get(request.idempotency_key)

        fate = self._injector.draw()
        return await self._answer(
            fate, request, context, book, payment_gateway_pb2.GetPaymentResponse
        )

    async def _answer(
        self,
        fate: Fate,
        request: Message,
        context: Context,
        book: Callable[[Fate], LedgerPayment],
        response: type[_Response],
    ) -> _Response:
        try:
            payment = await self._undergo(fate, request, book)
        except Refusal as refusal:
            await refuse(context, refusal)
        answer = response()
        write_payment(answer.payment, payment)
        if fate.lie is not None:
            _log.warning("answer is a lie", reference=payment.reference, lie=fate.lie.value)
            return told(answer, fate.lie)  # type: ignore[return-value]  # bytes: see BytesAllowed
        return answer

    async def _undergo(
        self, fate: Fate, request: Message, book: Callable[[Fate], LedgerPayment]
    ) -> LedgerPayment:
        if fate.ending is Ending.OUTAGE:
            raise Refusal.simulated("SIMULATED_OUTAGE", "the gateway is out of order")
        if fate.ending is Ending.REFUSED:
            code = grpc.StatusCode[fate.refuse_code]
            raise Refusal(code, "SIMULATED_REFUSAL", "the gateway refuses every call")
        if fate.ending is Ending.TIMEOUT:
            await _never()
        if fate.latency_s:
            await self._sleep(fate.latency_s)
        if fate.ending is Ending.ERROR:
            raise Refusal.simulated("SIMULATED_ERROR", "the gateway failed this time")
        check(request)
        try:
            payment = book(fate)
        except LedgerError as error:
            raise Refusal.of(error) from error
        if fate.ending is Ending.LOST_ANSWER:
            await _never()
        return payment


class PaymentSimulatorServicer(payment_simulator_pb2_grpc.PaymentSimulatorServiceServicer):
    """Steers the faults and shows the books; itself never at fault."""

    def __init__(self, ledger: Ledger, injector: FaultInjector) -> None:
        self._ledger = ledger
        self._injector = injector

    async def GetFaults(
        self, request: payment_simulator_pb2.GetFaultsRequest, context: Context
    ) -> payment_simulator_pb2.GetFaultsResponse:
        del request, context
        faults = faults_to_proto(self._injector.faults)
        return payment_simulator_pb2.GetFaultsResponse(faults=faults)

    async def SetFaults(
        self, request: payment_simulator_pb2.SetFaultsRequest, context: Context
    ) -> payment_simulator_pb2.SetFaultsResponse:
        try:
            check(request)
        except Refusal as refusal:
            await refuse(context, refusal)
        self._injector.faults = faults_from_proto(request.faults)
        faults = faults_to_proto(self._injector.faults)
        return payment_simulator_pb2.SetFaultsResponse(faults=faults)

    async def ListLedgerEntries(
        self, request: payment_simulator_pb2.ListLedgerEntriesRequest, context: Context
    ) -> AsyncIterator[payment_simulator_pb2.ListLedgerEntriesResponse]:
        del request, context
        for entry in self._ledger.entries():
            yield payment_simulator_pb2.ListLedgerEntriesResponse(entry=entry_to_proto(entry))


async def _never() -> Never:
    """Waits until the call is cancelled: by its deadline, its caller or the server's end."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody completes that future")
