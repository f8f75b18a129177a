"""Lines about payments: who has to do something about it."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from structlog.testing import capture_logs

from fakes.orders import order_id
from orderflow_server.orders.errors import PaymentUnresolved
from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.payments.log import log_settlement
from orderflow_server.payments.settlement import SettlementDeferred

ID = order_id(1)


def unresolved() -> PaymentUnresolved:
    error = PaymentUnresolved(ID)
    error.__cause__ = ConnectionResetError("reset by peer")
    return error


@pytest.mark.parametrize(
    ("cause", "level", "types"),
    [
        (unresolved(), "warning", ["PaymentUnresolved", "ConnectionResetError"]),
        (PaymentRefused(ID, grpc.StatusCode.INVALID_ARGUMENT, ""), "error", ["PaymentRefused"]),
    ],
)
def test_what_time_does_not_mend_is_for_a_person(
    cause: PaymentUnresolved | PaymentRefused, level: str, types: list[str]
) -> None:
    deferred = SettlementDeferred(ID, attempts=2, delay=timedelta(seconds=1.5), cause=cause)
    with capture_logs() as logs:
        log_settlement(deferred)
    [line] = logs
    assert line["log_level"] == level
    assert (line["order_id"], line["attempt"], line["delay_ms"]) == (str(ID), 2, 1500)
    assert [found["type"] for found in line["causes"]] == types
