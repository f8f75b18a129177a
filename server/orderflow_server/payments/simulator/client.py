"""What operators and audits ask of a running simulator."""

from __future__ import annotations

from orderflow.payments.v1 import payment_simulator_pb2, payment_simulator_pb2_grpc
from orderflow_client.channel import open_channel
from orderflow_client.contract import contracts
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.ledger import LedgerEntry
from orderflow_server.payments.simulator.wire import (
    entry_from_proto,
    faults_from_proto,
    faults_to_proto,
)

_CONTRACT = contracts(payment_simulator_pb2.DESCRIPTOR.services_by_name["PaymentSimulatorService"])
_CONTRACT = contracts(payment_simulator_pb2.DESCRIPTOR.services_by_name["PaymentSimulatorService"])


async def fetch_ledger(target: str) -> list[LedgerEntry]:
    """Every movement of money at the simulator, oldest first.

    Raises:
        grpc.aio.AioRpcError: The simulator cannot be reached or does not answer.
    """
    async with open_channel(target, contract=_CONTRACT) as channel:
        stub = payment_simulator_pb2_grpc.PaymentSimulatorServiceStub(channel)
        responses = stub.ListLedgerEntries(payment_simulator_pb2.ListLedgerEntriesRequest())
        return [entry_from_proto(response.entry) async for response in responses]


async def fetch_faults(target: str) -> Faults:
    """The faults in force.

    Raises:
        grpc.aio.AioRpcError: The simulator cannot be reached or does not answer.
    """
    async with open_channel(target, contract=_CONTRACT) as channel:
        stub = payment_simulator_pb2_grpc.PaymentSimulatorServiceStub(channel)
        request = payment_simulator_pb2.GetFaultsRequest()
        response = await stub.GetFaults(request)
        return faults_from_proto(response.faults)


async def set_faults(target: str, faults: Faults) -> Faults:
    """Replaces the faults, all of them, and returns those now in force.

    Raises:
        grpc.aio.AioRpcError: The simulator cannot be reached or does not answer.
    """
    async with open_channel(target, contract=_CONTRACT) as channel:
        stub = payment_simulator_pb2_grpc.PaymentSimulatorServiceStub(channel)
        request = payment_simulator_pb2.SetFaultsRequest(faults=faults_to_proto(faults))
        response = await stub.SetFaults(request)
        return faults_from_proto(response.faults)
