"""What happens at four times the load that the service can carry.

The service is a process of its own, over SQLite. So is its gateway, whose answers take 100 ms
(log-normal, sigma 0.3). None is bound to a core: on one alone the service's threads, of which one
writes to the disk, would wait for each other, and refusals with them. This process makes the
load, which is CreateOrder. Two things can be what bounds the capacity:

- waiting (the default): at most 20 calls at once may wait for the gateway, and the service has CPU
  to spare: to refuse a call costs a fifth of what it costs to serve one.
- cpu (`--cpu`): orders of 100 items, more than a millisecond of the service's CPU each, and room
  for 200. To refuse a call then takes from what is served, the more of it the less an order costs,
  and a refusal waits for the work that its turn of the event loop has before it: goodput has a
  wider bound, and how long refusals take has none.

Phases:

- peak: a fixed number of callers, each of which begins its next call when the last one is answered.
  The number doubles while goodput still grows by a twentieth; the best is the capacity.
- overload: calls begin at four times that rate, whatever becomes of the earlier ones, for 20 s.
- recovery: calls at half the capacity begin at once after it.

Every refused call must carry a pushback. Health is asked ten times a second throughout.

Exits with 1 when goodput is less than 90 % of the peak (cpu: 35 %), when the 99th percentile of
accepted calls is more than three times the one at the peak, when one of twenty refusals took longer
than 5 ms (cpu: any time), when one carries no pushback, when a call was neither accepted nor
refused, when health did not answer, or when recovery takes longer than 2 s.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.checks import Check, conclude
from bench.load import percentile
from orderflow.v1 import order_service_pb2 as pb
from orderflow_client import OrderClient, OrderflowError, item, money
from orderflow_client.status import PUSHBACK_KEY, metadatum
from orderflow_server.telemetry.loop_lag import sample_loop_lag
from processes import free_port

TIMEOUT_S = 5.0
PEAK_S = 4.0
OVERLOAD_S = 20.0
RECOVERY_S = 4.0
FACTOR = 4.0


@dataclass
class Phase:
    """What the calls of one phase met with; times are `time.perf_counter`."""

    began_s: float = field(default_factory=time.perf_counter)
    ended_s: float = 0.0
    accepted_ms: list[float] = field(default_factory=list)
    accepted_at_s: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    refused_at_s: list[float] = field(default_factory=list)
    without_pushback: int = 0
    failed: int = 0

    @property
    def goodput(self) -> float:
        """Accepted calls a second, of those that were answered while it lasted."""
        answered = sum(at_s <= self.ended_s for at_s in self.accepted_at_s)
        return answered / (self.ended_s - self.began_s)

    @property
    def p99_ms(self) -> float:
        return percentile(self.accepted_ms, 99)


Call = Callable[[Phase], Awaitable[None]]


def caller(channels: list[grpc.aio.Channel], items: int) -> Call:
    """One call on a bare channel: nothing is retried, every answer is seen.

    Messages are bytes, so that this process can make several times the load that the other can
    carry: a request is a constant and a new request_id, which protobuf lets follow it.
    """
    turn = 0
    body = pb.CreateOrderRequest(
        customer_id="load",
        items=[item(f"SKU-{number}", 2, money("12.50", "EUR")) for number in range(items)],
        payment_token="tok_load",
    ).SerializeToString()
    methods: list[Any] = [
        channel.unary_unary("/orderflow.v1.OrderService/CreateOrder") for channel in channels
    ]

    async def call(phase: Phase) -> None:
        nonlocal turn
        turn += 1
        request = body + b"\x0a\x24" + str(uuid.uuid4()).encode()
        began_s = time.perf_counter()
        try:
            await methods[turn % len(methods)](request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            now_s = time.perf_counter()
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                phase.refused_ms.append((now_s - began_s) * 1000)
                phase.refused_at_s.append(now_s)
                if metadatum(error.trailing_metadata(), PUSHBACK_KEY) is None:
                    phase.without_pushback += 1
            else:
                phase.failed += 1
        else:
            now_s = time.perf_counter()
            phase.accepted_ms.append((now_s - began_s) * 1000)
            phase.accepted_at_s.append(now_s)

    return call


async def closed_loop(call: Call, callers: int, duration_s: float) -> Phase:
    phase = Phase()

    async def one() -> None:
        while time.perf_counter() - phase.began_s < duration_s:
            await call(phase)

    await asyncio.gather(*(one() for _ in range(callers)))
    phase.ended_s = time.perf_counter()
    return phase


async def open_loop(call: Call, rate: float, duration_s: float) -> Phase:
    """Begins calls at a rate; what this process cannot begin in time it begins late."""
    phase = Phase()
    running: set[asyncio.Task[None]] = set()
    begun = 0
    while (elapsed_s := time.perf_counter() - phase.began_s) < duration_s:
        while begun < elapsed_s * rate:
            task = asyncio.ensure_future(call(phase))
            running.add(task)
            task.add_done_callback(running.discard)
            begun += 1
        await asyncio.sleep(0.001)
    phase.ended_s = time.perf_counter()
    if running:
        await asyncio.wait(running)
    return phase


async def peak_phase(call: Call, console: Console) -> Phase:
    best = await closed_loop(call, 1, PEAK_S)
    callers = 1
    while True:
        callers *= 2
        phase = await closed_loop(call, callers, PEAK_S)
        console.print(f"  {callers} callers: {phase.goodput:.0f}/s, p99 {phase.p99_ms:.0f} ms")
        if phase.goodput < best.goodput * 1.05:
            return best
        best = phase


@asynccontextmanager
async def service(directory: Path, max_in_flight: int) -> AsyncIterator[str]:
    address, gateway = (f"127.0.0.1:{free_port()}" for _ in range(2))
    _, _, gateway_port = gateway.rpartition(":")
    commands = [
        ["gateway", "--port", gateway_port, "--latency-ms", "100", "--latency-sigma", "0.3"],
        [
            *("serve", "--address", address, "--ops-address", "127.0.0.1:0"),
            *("--gateway", gateway),
            *("--database", str(directory / "orders.db"), "--log-format", "json"),
        ],
    ]
    with (directory / "log").open("wb") as log:
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "orderflow_server", *command),
                env={**os.environ, "ORDERFLOW_MAX_IN_FLIGHT": str(max_in_flight)},
                stdout=log,
                stderr=log,
            )
            for command in commands
        ]
    try:
        async with OrderClient(address) as client:
            while True:
                try:
                    if await client.health() == "SERVING":
                        break
                except OrderflowError:
                    await asyncio.sleep(0.05)
        yield address
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def ask_health(address: str, latencies_ms: list[float]) -> None:
    async with OrderClient(address) as client:
        while True:
            began_s = time.perf_counter()
            assert await client.health(timeout_s=1.0) == "SERVING"
            latencies_ms.append((time.perf_counter() - began_s) * 1000)
            await asyncio.sleep(0.1)


def recovered_after_s(phase: Phase) -> float:
    """When the last call was refused, counted from the end of the overload."""
    return max((at_s - phase.began_s for at_s in phase.refused_at_s), default=0.0)


async def main(*, cpu: bool) -> int:
    console = Console()
    health_ms: list[float] = []
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".bench-") as directory:
        async with service(Path(directory), 200 if cpu else 20) as address:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(4)]
            call = caller(channels, 100 if cpu else 1)
            await closed_loop(call, 2, 1.0)  # warm-up
            asking = asyncio.create_task(ask_health(address, health_ms))
            peak = await peak_phase(call, console)
            lag_ms: list[float] = []
            lagging = asyncio.create_task(
                sample_loop_lag(lambda lag_s: lag_ms.append(lag_s * 1000), interval_s=0.005)
            )
            overload = await open_loop(call, FACTOR * peak.goodput, OVERLOAD_S)
            lagging.cancel()
            recovery = await open_loop(call, peak.goodput / 2, RECOVERY_S)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            healthy = asking.cancelled()
            for channel in channels:
                await channel.close()

    offered = len(overload.accepted_ms) + len(overload.refused_ms) + overload.failed
    goodput, p99 = overload.goodput / peak.goodput, overload.p99_ms / peak.p99_ms
    refusal_ms, recovered_s = percentile(overload.refused_ms, 95), recovered_after_s(recovery)
    checks = [
        # Or this process made less of it than it says.
        Check(
            name="offered, of the peak",
            measured=offered / OVERLOAD_S / peak.goodput,
            at_least=0.95 * FACTOR,
        ),
        Check(name="goodput, of the peak", measured=goodput, at_least=0.35 if cpu else 0.9),
        Check(name="p99 of accepted calls, of that at the peak", measured=p99, at_most=3),
        *([] if cpu else [Check(name="refusals, p95", measured=refusal_ms, unit="ms", at_most=5)]),
        Check(name="refusals without pushback", measured=overload.without_pushback, at_most=0),
        Check(name="neither accepted nor refused", measured=overload.failed, at_most=0),
        Check(name="recovered after", measured=recovered_s, unit="s", at_most=2),
        # It answered all the time, or there is no such figure.
        Check(
            name="health, p99",
            measured=percentile(health_ms, 99) if healthy else math.inf,
            unit="ms",
            at_most=1000,
        ),
    ]
    console.print(
        f"peak: {peak.goodput:.0f}/s, p99 {peak.p99_ms:.0f} ms\n"
        f"offered: {offered / OVERLOAD_S:.0f}/s\n"
        f"accepted: {overload.goodput:.0f}/s, p99 {overload.p99_ms:.0f} ms\n"
        f"refused: {len(overload.refused_ms) / OVERLOAD_S:.0f}/s, "
        f"p50 {percentile(overload.refused_ms, 50):.1f} ms, p95 {refusal_ms:.1f} ms, "
        f"p99 {percentile(overload.refused_ms, 99):.1f} ms\n"
        f"failed otherwise: {overload.failed}\n"
        f"this process itself was late by p50 {percentile(lag_ms, 50):.1f} ms, "
        f"p90 {percentile(lag_ms, 90):.1f} ms, p99 {percentile(lag_ms, 99):.1f} ms"
    )
    if cpu:
        checks = [replace(check, name=f"CPU-bound: {check.name}") for check in checks]
    return conclude("overload-cpu" if cpu else "overload", checks)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(cpu="--cpu" in sys.argv[1:])))
