"""What happens to payments, as log lines. The settlement only tells; this listens."""

from __future__ import annotations

import structlog

from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.payments.settlement import SettlementDeferred, SettlementEvent
from orderflow_server.telemetry.causes import causes

log = structlog.get_logger("orderflow.payments")


def log_settlement(event: SettlementEvent) -> None:
    if isinstance(event, SettlementDeferred):
        fields = {
            "order_id": str(event.order_id),
            "attempt": event.attempts,
            "delay_ms": round(event.delay.total_seconds() * 1000),
            "causes": causes(event.cause),
        }
        if isinstance(event.cause, PaymentRefused):
            log.error("payment unresolved until a person looks: the gateway refuses it", **fields)
        else:
            log.warning("payment unresolved, the background worker goes on", **fields)
    else:
        log.debug("order settled", order_id=str(event.order.id), state=event.order.state)
