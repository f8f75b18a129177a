"""Lines about payments: who has to do something about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from fakes.orders import NOW, new_order, order_id
from orderflow_server.orders.errors import PaymentUnresolved
from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.payments.log import log_settlement
from orderflow_server.payments.refusals import RefusalsWidespread
from orderflow_server.payments.settlement import (
    OrderSettled,
    SettlementDeferred,
    SettlementEvent,
    SettlementParked,
)

ID = order_id(1)


def unresolved() -> PaymentUnresolved:
    error = PaymentUnresolved(ID)
    error.__cause__ = ConnectionResetError("reset by peer")
    return error


def refused() -> PaymentRefused:
    return PaymentRefused(ID, grpc.StatusCode.INVALID_ARGUMENT, "")


def line_of(event: SettlementEvent) -> Any:
    with capture_logs() as logs:
        log_settlement(event)
    [line] = logs
    return line


@pytest.mark.parametrize(
    ("cause", "types"),
    [
        (unresolved(), ["PaymentUnresolved", "ConnectionResetError"]),
        (refused(), ["PaymentRefused"]),
    ],
)
def test_what_is_tried_again_is_unusual(
    cause: PaymentUnresolved | PaymentRefused, types: list[str]
) -> None:
    line = line_of(SettlementDeferred(ID, attempts=2, delay=timedelta(seconds=1.5), cause=cause))
    assert line["log_level"] == "warning"
    assert (line["order_id"], line["attempt"], line["delay_ms"]) == (str(ID), 2, 1500)
    assert [found["type"] for found in line["causes"]] == types


def test_an_open_breaker_is_not_told_once_more_for_each_order() -> None:
    line = line_of(SettlementDeferred(ID, 2, timedelta(seconds=1), unresolved(), asked=False))
    assert line["log_level"] == "debug"


def test_what_is_parked_is_for_a_person() -> None:
    line = line_of(SettlementParked(ID, attempts=1440, reason="REFUSED_NOT_FOUND", cause=refused()))
    assert line["log_level"] == "error"
    assert (line["order_id"], line["attempt"]) == (str(ID), 1440)
    assert line["reason"] == "REFUSED_NOT_FOUND"
    assert [found["type"] for found in line["causes"]] == ["PaymentRefused"]


def test_refusals_of_order_after_order_are_an_error_and_their_end_is_not() -> None:
    code = grpc.StatusCode.UNIMPLEMENTED
    line = line_of(RefusalsWidespread(True, code))
    assert (line["log_level"], line["code"]) == ("error", "UNIMPLEMENTED")
    assert line_of(RefusalsWidespread(False, code))["log_level"] == "info"


def test_what_is_settled_is_routine() -> None:
    line = line_of(OrderSettled(new_order().paid(NOW)))
    assert (line["log_level"], line["order_id"], line["state"]) == ("debug", str(ID), "PAID")
