"""What the servers tell of themselves, read from their /metrics all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from orderflow_server.chaos.recording import ExitSeen, Recording, Sample
from orderflow_server.chaos.world import Server

INTERVAL_S = 0.25
_EXITS_INTERVAL_S = 0.02
_GATEWAY = "orderflow.payments.v1.PaymentGateway"
_BREAKER = "orderflow_breaker_state"
_PLAIN = {
    "orderflow_orders_parked": "parked",
    "orderflow_events_published_total": "published",
    "orderflow_events_refused_total": "refused_events",
}
"""Metrics, and where a sample has the sum of their values."""
_OF_GATEWAY = {"grpc_client_attempts_total": "attempts", "orderflow_retries_total": "retries"}
_OF_CALLS = {"orderflow_limiter_limit": "limit", "orderflow_limiter_in_flight": "in_flight"}
_WANTED = (_BREAKER, *_PLAIN, *_OF_GATEWAY, *_OF_CALLS)


async def sample_servers(
    servers: Sequence[Server], recording: Recording, *, clock: Callable[[], float]
) -> None:
    """Four times a second, until it is cancelled. A server that does not answer is left out."""
    timeout = aiohttp.ClientTimeout(total=INTERVAL_S * 4)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(_sample(server, recording, session, clock))


async def watch_exits(
    servers: Sequence[Server], recording: Recording, *, clock: Callable[[], float]
) -> None:
    """Write down each end of a server's process, until it is cancelled."""
    before: dict[int, int | None] = {}
    while True:
        for server in servers:
            code = server.exit_code
            if code is not None and before.get(server.number) is None:
                seen = ExitSeen(at_s=clock(), server=server.number, code=code)
                recording.exits.append(seen)
            before[server.number] = code
        await asyncio.sleep(_EXITS_INTERVAL_S)


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
    numbers = dict.fromkeys({*_PLAIN.values(), *_OF_GATEWAY.values(), *_OF_CALLS.values()}, 0.0)
    # Most lines are others, and to parse takes longer than to look.
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(_WANTED))
    for family in text_string_to_metric_families(lines):
        for found in family.samples:
            labels = found.labels
            if found.name == _BREAKER and found.value:
                which = "store" if labels["breaker"] == "store" else "gateway"
                states[which] = labels["state"]
            name = _PLAIN.get(found.name)
            if labels.get("grpc_service") == _GATEWAY:
                name = _OF_GATEWAY.get(found.name)
            elif labels.get("limiter") == "calls":
                name = _OF_CALLS.get(found.name)
            if name is not None:
                numbers[name] += found.value
    return Sample(
        at_s=at_s,
        server=server,
        gateway_breaker=states["gateway"],
        store_breaker=states["store"],
        **numbers,
    )
