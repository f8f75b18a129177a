"""A payment gateway over gRPC that does what `http_gateway.py` does for the conventional peer.

`Charge` charges once under an idempotency key: a dict, and as little as can be.
"""

from __future__ import annotations

import asyncio
from typing import Any, Never

import grpc
import uvloop

from orderflow.payments.v1 import payment_gateway_pb2 as pb
from orderflow.payments.v1 import payment_gateway_pb2_grpc as rpc
from orderflow_server.acceptors import Acceptors
from orderflow_server.lifecycle import leave_alone_what_stays, let_threads_finish_their_turns


class Gateway(rpc.PaymentGatewayServicer):
    def __init__(self) -> None:
        self._payments: dict[str, pb.ChargeResponse] = {}

    async def Charge(  # noqa: N802  the contract's
        self,
        request: pb.ChargeRequest,
        context: Any,  # noqa: ARG002  gRPC's signature
    ) -> pb.ChargeResponse:
        payment = pb.Payment(
            idempotency_key=request.idempotency_key,
            reference=request.reference,
            amount=request.amount,
            state=pb.PAYMENT_STATE_CHARGED,
        )
        return self._payments.setdefault(
            request.idempotency_key, pb.ChargeResponse(payment=payment)
        )

    async def GetPayment(  # noqa: N802  the contract's
        self, request: pb.GetPaymentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetPaymentResponse:
        charged = self._payments.get(request.idempotency_key)
        if charged is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no payment under this key")
        return pb.GetPaymentResponse(payment=charged.payment)

    async def _no(self, request: Any, context: Any) -> Never:
        raise NotImplementedError

    Refund = Void = _no


async def serve() -> None:
    server = grpc.aio.server()
    acceptors = Acceptors(server)
    acceptors.add(rpc.add_PaymentGatewayServicer_to_server, Gateway())
    port = server.add_insecure_port("127.0.0.1:0")
    await acceptors.start()
    # As the service does when it has started, and to the good of all alike.
    leave_alone_what_stays()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    let_threads_finish_their_turns()
    uvloop.run(serve())
