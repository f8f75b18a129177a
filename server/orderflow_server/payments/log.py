"""Write settlement events to the log."""

from __future__ import annotations

import structlog

from orderflow_server.orders.ids import text_of
from orderflow_server.payments.refusals import RefusalsWidespread
from orderflow_server.payments.settlement import (
    OrderSettled,
    SettlementDeferred,
    SettlementEvent,
    SettlementParked,
)
from orderflow_server.telemetry.causes import causes

log = structlog.get_logger("orderflow.payments")


def log_settlement(event: SettlementEvent) -> None:
    match event:
        case SettlementDeferred():
            # That the breaker is open is a line of its own, and not one for each order.
            write = log.warning if event.asked else log.debug
            write(
                "payment unresolved, the background worker goes on",
                order_id=str(event.order_id),
                attempt=event.attempts,
                delay_ms=round(event.delay.total_seconds() * 1000),
                causes=causes(event.cause),
            )
        case SettlementParked():
            log.error(
                "payment parked, a person must look",
                order_id=str(event.order_id),
                attempt=event.attempts,
                reason=event.reason,
                causes=causes(event.cause),
            )
        case RefusalsWidespread(active=True):
            log.error(
                "gateway refuses order after order, the background worker pauses",
                code=event.code.name,
            )
        case RefusalsWidespread():
            log.info("gateway accepts orders again", code=event.code.name)
        case OrderSettled():
            log.debug("order settled", order_id=text_of(event.order.id), state=event.order.state)
