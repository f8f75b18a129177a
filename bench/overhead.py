"""What the server's interceptors cost, all of them and with everything they tell: CPU per call.

Each server is a process of its own that answers GetOrder with an empty order:

- bare: grpc.aio and nothing else;
- bare, accepted: the same, its calls taken in by acceptors, as those of the chain and the service;
- opentelemetry: with the stock tracing interceptor, which keeps 1 % of the traces;
- chain 1 %: the whole chain as the service has it (spans, log lines, metrics, errors, deadlines,
  admission), 1 % of the traces kept;
- chain 100 %: likewise, all of them kept;
- bare and the chain again, over uvloop, which is what the service runs on. The others have the
  standard library's event loop, as grpc.aio has it where nobody asks for another.

The spans leave by OTLP to a fifth process, log lines go to a file. This process makes the calls, a
fixed number at once, to one server after the other, round after round; what counts is the CPU
time that the server took for them, threads included, and the median over the rounds of the ratio
to `bare` in the same round.

Exits with 1 when the chain takes more than 1.35 times (1 %) or 1.9 times (100 %) the bare server's,
both over the standard library's event loop: what another loop saves is not the chain's.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Never

import grpc
import uvloop
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent.parent))

from bench.checks import Check, conclude, ratio
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc as rpc
from orderflow_client.resilience.limiter import Limiter
from orderflow_client.resilience.limits import AdaptiveLimit, AdaptiveLimitOptions, FixedLimit
from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_server.acceptors import Acceptors
from orderflow_server.lifecycle import leave_alone_what_stays, let_threads_finish_their_turns
from orderflow_server.rpc.chain import ServerChain
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.interceptors.authentication import anybody
from orderflow_server.rpc.server import (
    ORDER_SERVICE,
    Admission,
    CallTelemetry,
    add_services,
    interceptors,
)
from orderflow_server.telemetry.export import open_exports
from orderflow_server.telemetry.logs import configure_logs

CALLS = 640
WARM_UP = 320
CONCURRENCY = 16
ROUNDS = 40
TIMEOUT_S = 2.0  # as the contract has it
BOUNDS = {"chain 1 %": 1.35, "chain 100 %": 1.9}
SERVERS = {
    "bare": ("bare", "0.01"),
    "bare, accepted": ("accepted", "0.01"),
    "opentelemetry 1 %": ("opentelemetry", "0.01"),
    "chain 1 %": ("chain", "0.01"),
    "chain 100 %": ("chain", "1.0"),
    "bare, uvloop": ("bare", "0.01"),
    "chain 1 %, uvloop": ("chain", "0.01"),
    "chain 100 %, uvloop": ("chain", "1.0"),
}


class NoOp(rpc.OrderServiceServicer):
    async def GetOrder(self, request: Any, context: Any) -> pb.GetOrderResponse:  # noqa: N802, ARG002  the contract's
        return pb.GetOrderResponse()

    async def _no(self, request: Any, context: Any) -> Never:
        raise NotImplementedError

    CreateOrder = ListOrders = CancelOrder = _no
    WatchOrder: Any = _no


def chain(tracer_provider: TracerProvider) -> ServerChain:
    """As `make_server` puts it together."""
    limits = Admission(
        unary=Limiter(
            AdaptiveLimit(AdaptiveLimitOptions(min_limit=8, initial_limit=200, max_limit=1000)),
            name="calls",
        ),
        streams=Limiter(FixedLimit(1000), name="streams"),
    )
    telemetry = CallTelemetry(
        tracer=tracer_provider.get_tracer("bench"),
        metrics=CallMetrics("server", CollectorRegistry()),
        slow_call_s=1.0,
    )
    return ServerChain(
        interceptors(limits, anybody(trusted=False), telemetry), services=[ORDER_SERVICE]
    )


async def serve(kind: str) -> None:
    async with AsyncExitStack() as stack:
        around: list[grpc.aio.ServerInterceptor] = []
        inside: ServerChain | None = None
        if kind not in {"bare", "accepted"}:
            exports = await stack.enter_async_context(open_exports(version="bench"))
            if kind == "opentelemetry":
                # The library leaves the types of this function out.
                around = [aio_server_interceptor(exports.tracer_provider)]  # type: ignore[no-untyped-call]
            else:
                configure_logs(level="info", form="json")
                inside = chain(exports.tracer_provider)
                around = [inside]
        server = grpc.aio.server(interceptors=around)
        port = server.add_insecure_port("127.0.0.1:0")
        if kind == "accepted":
            acceptors = Acceptors(server)
            acceptors.add(rpc.add_OrderServiceServicer_to_server, NoOp())
            await acceptors.start()
        elif inside is None:
            rpc.add_OrderServiceServicer_to_server(NoOp(), server)
            await server.start()
        else:
            await add_services(server, NoOp(), HealthService([ORDER_SERVICE]), inside).start()
        # As the service does when it has started, and to the good of all alike.
        leave_alone_what_stays()
        print(port, file=sys.stderr, flush=True)
        await server.wait_for_termination()


async def sink() -> None:
    """Takes spans and says thank you."""

    async def export(_request: bytes, _context: Any) -> bytes:
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "opentelemetry.proto.collector.trace.v1.TraceService",
                {"Export": grpc.unary_unary_rpc_method_handler(export)},
            )
        ]
    )
    print(server.add_insecure_port("127.0.0.1:0"), file=sys.stderr, flush=True)
    await server.start()
    await server.wait_for_termination()


class Process:
    """A process of this script that says its port."""

    def __init__(self, *arguments: str, log: Path, environment: dict[str, str]) -> None:
        with log.open("wb") as stdout:
            self._process = subprocess.Popen(
                [sys.executable, __file__, *arguments],
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=os.environ | environment,
            )
        assert self._process.stderr is not None
        self.port = int(self._process.stderr.readline())

    def cpu_s(self) -> float:
        """What all its threads took so far."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def processes(directory: Path) -> Iterator[dict[str, Process]]:
    with ExitStack() as stack:

        def start(*arguments: str, environment: dict[str, str]) -> Process:
            process = Process(*arguments, log=directory / "log", environment=environment)
            stack.callback(process.stop)
            return process

        collector = start("--sink", environment={})
        yield {
            name: start(
                "--serve",
                kind,
                *(["--uvloop"] if name.endswith("uvloop") else []),
                environment={
                    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
                    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                    "OTEL_TRACES_SAMPLER_ARG": ratio,
                },
            )
            for name, (kind, ratio) in SERVERS.items()
        }


async def load(method: Any, calls: int) -> None:
    request = pb.GetOrderRequest(order_id="0198a3a0-0000-7000-8000-000000000000")
    body = request.SerializeToString()

    async def caller() -> None:
        for _ in range(calls // CONCURRENCY):
            await method(body, timeout=TIMEOUT_S)

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))


async def measure(servers: dict[str, Process]) -> dict[str, list[float]]:
    """Microseconds of CPU per call, for each server and round."""
    figures: dict[str, list[float]] = {name: [] for name in servers}
    methods: dict[str, Any] = {}
    channels = []
    for name, server in servers.items():
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        channels.append(channel)
        methods[name] = channel.unary_unary(f"/{ORDER_SERVICE}/GetOrder")
        await load(methods[name], CALLS)
    for _ in range(ROUNDS):
        for name, server in servers.items():
            # What had gone cold while the others had their turn is not the chain's.
            await load(methods[name], WARM_UP)
            before_s = server.cpu_s()
            await load(methods[name], CALLS)
            # What was put off until after the calls is theirs too.
            await asyncio.sleep(0.2)
            figures[name].append((server.cpu_s() - before_s) / CALLS * 1e6)
    for channel in channels:
        await channel.close()
    return figures


def main() -> int:
    with tempfile.TemporaryDirectory() as directory, processes(Path(directory)) as servers:
        figures = asyncio.run(measure(servers))
    console = Console()
    table = Table(title=f"Server CPU per call, median of {ROUNDS} rounds of {CALLS} calls")
    for column in ("server", "us", "of bare", "at most"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, values in figures.items():
        bound = BOUNDS.get(name)
        table.add_row(
            name,
            f"{statistics.median(values):.0f}",
            f"{ratio(values, figures['bare']):.2f}",
            f"{bound}" if bound else "",
        )
    console.print(table)
    checks = [
        Check(
            name=f"server CPU of a no-op, {name}, of bare",
            measured=ratio(values, figures["bare"]),
            at_most=BOUNDS[name],
        )
        for name, values in figures.items()
        if name in BOUNDS
    ]
    return conclude("overhead", checks, figures=figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        loop_factory = uvloop.new_event_loop if "--uvloop" in sys.argv else None
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            let_threads_finish_their_turns()
            runner.run(serve(sys.argv[2]))
    elif sys.argv[1:2] == ["--sink"]:
        asyncio.run(sink())
    else:
        sys.exit(main())
