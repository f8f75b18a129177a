"""The HTTP port for whoever runs the service: its metrics, and whether it lives and serves.

    GET /metrics  every metric: as OpenMetrics, with examples of traces, to who asks; else as text
    GET /livez    200 while the event loop turns
    GET /readyz   200 while health says SERVING, 503 otherwise

It is for the inside of a network: nobody has to say who they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_SHUTDOWN_S = 1.0
"""How long an answer under way may take at the end."""


class OpsAddressUnavailable(Exception):
    """The address for operations cannot be bound."""


@asynccontextmanager
async def ops_server(
    address: str, *, registry: CollectorRegistry, ready: Callable[[], bool]
) -> AsyncIterator[str]:
    """Answers until the block ends; yields host:port, with the port it really has.

    Args:
        address: Where, host:port. Port 0 takes a free one.
        registry: What /metrics tells of.
        ready: What /readyz answers.

    Raises:
        OpsAddressUnavailable: The address cannot be bound.
    """
    runner = web.AppRunner(
        _application(registry, ready), access_log=None, shutdown_timeout=_SHUTDOWN_S
    )
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except (OSError, ValueError, OverflowError) as error:  # Overflow: a port above 65535.
            raise OpsAddressUnavailable(f"cannot answer on {address}: {error}") from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _application(registry: CollectorRegistry, ready: Callable[[], bool]) -> web.Application:
    exposed = _WithoutCreated(registry)

    async def metrics(request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        except TypeError as error:  # What it raises for a version that is no number.
            raise web.HTTPNotAcceptable from error
        return web.Response(body=encode(exposed), headers={hdrs.CONTENT_TYPE: content_type})

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="SERVING\n")
        return web.Response(
            status=503, text="NOT_SERVING: starting, stopping, or the store cannot write\n"
        )

    application = web.Application()
    application.add_routes(
        [web.get("/metrics", metrics), web.get("/livez", livez), web.get("/readyz", readyz)]
    )
    application.on_response_prepare.append(_without_server)
    return application


class _WithoutCreated(Collector):
    """A registry less the times at which its counters and histograms were made.

    The library tells one for each, which takes a third of every scrape, and Prometheus keeps each
    as a series that nobody asks for.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric


async def _without_server(_: web.Request, response: web.StreamResponse) -> None:
    """Which versions run here is nobody's business."""
    response.headers.pop(hdrs.SERVER, None)
