"""The simulator's own types <-> its contract."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC

from google.protobuf import duration_pb2
from google.rpc import code_pb2

from orderflow.payments.v1 import payment_gateway_pb2, payment_simulator_pb2
from orderflow_server.messages import write_money, write_time
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.ledger import EntryKind, LedgerEntry, LedgerPayment
from orderflow_server.payments.wire import STATE_TO_PROTO, money_from_proto

_KIND_TO_PROTO: Mapping[EntryKind, payment_simulator_pb2.LedgerEntryKind.ValueType] = {
    EntryKind.CHARGE: payment_simulator_pb2.LEDGER_ENTRY_KIND_CHARGE,
    EntryKind.REFUND: payment_simulator_pb2.LEDGER_ENTRY_KIND_REFUND,
}
_KIND_FROM_PROTO = {proto: kind for kind, proto in _KIND_TO_PROTO.items()}


def write_payment(proto: payment_gateway_pb2.Payment, payment: LedgerPayment) -> None:
    """Fills an empty message: into an answer, which would copy one that it is handed."""
    proto.idempotency_key = payment.key
    proto.reference = payment.reference
    if payment.amount is not None:
        write_money(proto.amount, payment.amount)
    proto.state = STATE_TO_PROTO[payment.state]
    proto.decline_reason = payment.decline_reason
    write_time(proto.create_time, payment.create_time)


def entry_to_proto(entry: LedgerEntry) -> payment_simulator_pb2.LedgerEntry:
    proto = payment_simulator_pb2.LedgerEntry(
        kind=_KIND_TO_PROTO[entry.kind],
        idempotency_key=entry.key,
        reference=entry.reference,
    )
    write_money(proto.amount, entry.amount)
    write_time(proto.time, entry.time)
    return proto


def entry_from_proto(entry: payment_simulator_pb2.LedgerEntry) -> LedgerEntry:
    return LedgerEntry(
        kind=_KIND_FROM_PROTO[entry.kind],
        key=entry.idempotency_key,
        reference=entry.reference,
        amount=money_from_proto(entry.amount),
        time=entry.time.ToDatetime(UTC),
    )


def faults_to_proto(faults: Faults) -> payment_simulator_pb2.Faults:
    latency_median = duration_pb2.Duration()
    latency_median.FromNanoseconds(round(faults.latency_median_s * 1e9))
    return payment_simulator_pb2.Faults(
        outage=faults.outage,
        error_rate=faults.error_rate,
        timeout_rate=faults.timeout_rate,
        lost_answer_rate=faults.lost_answer_rate,
        decline_rate=faults.decline_rate,
        latency_median=latency_median,
        latency_sigma=faults.latency_sigma,
        hanging_token=faults.hanging_token,
        lie_rate=faults.lie_rate,
        refuse_code=code_pb2.Code.Value(faults.refuse_code or "OK"),
    )


def faults_from_proto(faults: payment_simulator_pb2.Faults) -> Faults:
    """The faults of a message that keeps to the contract's rules."""
    latency_median = faults.latency_median
    return Faults(
        outage=faults.outage,
        error_rate=faults.error_rate,
        timeout_rate=faults.timeout_rate,
        lost_answer_rate=faults.lost_answer_rate,
        decline_rate=faults.decline_rate,
        latency_median_s=latency_median.seconds + latency_median.nanos / 1e9,
        latency_sigma=faults.latency_sigma,
        hanging_token=faults.hanging_token,
        lie_rate=faults.lie_rate,
        refuse_code=code_pb2.Code.Name(faults.refuse_code) if faults.refuse_code else "",
    )
