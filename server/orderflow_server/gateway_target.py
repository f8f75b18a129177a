"""Which payment gateway is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

log = structlog.get_logger("orderflow.gateway")


@asynccontextmanager
async def gateway_target(gateway: str) -> AsyncIterator[str]:
    """The gateway's address; without one, that of a simulator inside this process."""
    if gateway:
        yield gateway
        return
    # With a gateway there is no need of it.
    from orderflow_server.payments.simulator.server import PaymentSimulator

    async with PaymentSimulator() as simulator:
        log.warning("no gateway is set: payments are simulated, no money moves")
        yield simulator.target
