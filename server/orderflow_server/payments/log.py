"""What happens to payments, as log lines. The settlement only tells; this listens."""

from __future__ import annotations

import structlog

from orderflow_client.status import brief
from orderflow_server.payments.settlement import SettlementDeferred, SettlementEvent

log = structlog.get_logger("orderflow.payments")


def log_settlement(event: SettlementEvent) -> None:
    if isinstance(event, SettlementDeferred):
        log.warning(
            "payment unresolved, the background worker goes on",
            order_id=str(event.order_id),
            attempt=event.attempts,
            delay_ms=round(event.delay.total_seconds() * 1000),
            cause=brief(event.cause.__cause__ or event.cause),
        )
    else:
        log.debug("order settled", order_id=str(event.order.id), state=event.order.state)
