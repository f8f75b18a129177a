"""What the servers tell of themselves, read from their /metrics all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from orderflow_server.chaos.recording import Recording, Sample
from orderflow_server.chaos.world import Server

INTERVAL_S = 0.25
_GATEWAY = "orderflow.payments.v1.PaymentGateway"
_WANTED = (
    "orderflow_breaker_state",
    "grpc_client_attempts_total",
    "orderflow_retries_total",
    "orderflow_limiter_limit",
    "orderflow_limiter_in_flight",
)


async def sample_servers(
    servers: Sequence[Server], recording: Recording, *, clock: Callable[[], float]
) -> None:
    """Four times a second, until it is cancelled. A server that does not answer is left out."""
    timeout = aiohttp.ClientTimeout(total=INTERVAL_S * 4)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(_sample(server, recording, session, clock))


async def _sample(
    server: Server,
    recording: Recording,
    session: aiohttp.ClientSession,
    clock: Callable[[], float],
) -> None:
    while True:
        try:
            async with session.get(f"http://{server.ops_address}/metrics") as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            pass  # It is down, or busy; the next one is soon.
        else:
            recording.samples.append(read_sample(text, at_s=clock(), server=server.number))
        await asyncio.sleep(INTERVAL_S)


def read_sample(text: str, *, at_s: float, server: int) -> Sample:
    """What of a server's metrics a scenario is about.

    Args:
        text: As /metrics gives them.
        at_s: When.
        server: Whose.
    """
    states = {"gateway": "closed", "store": "closed"}
    attempts = retries = limit = in_flight = 0.0
    # Most lines are others, and to parse takes longer than to look.
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(_WANTED))
    for family in text_string_to_metric_families(lines):
        for found in family.samples:
            labels = found.labels
            of_gateway = labels.get("grpc_service") == _GATEWAY
            of_calls = labels.get("limiter") == "calls"
            if found.name == "orderflow_breaker_state" and found.value:
                which = "store" if labels["breaker"] == "store" else "gateway"
                states[which] = labels["state"]
            elif found.name == "grpc_client_attempts_total" and of_gateway:
                attempts += found.value
            elif found.name == "orderflow_retries_total" and of_gateway:
                retries += found.value
            elif found.name == "orderflow_limiter_limit" and of_calls:
                limit = found.value
            elif found.name == "orderflow_limiter_in_flight" and of_calls:
                in_flight = found.value
    return Sample(
        at_s=at_s,
        server=server,
        gateway_breaker=states["gateway"],
        store_breaker=states["store"],
        attempts=attempts,
        retries=retries,
        limit=limit,
        in_flight=in_flight,
    )
