"""One scenario, from the start of its processes to the audit of what they did."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from orderflow.v1 import order_pb2
from orderflow_client import OrderClient, OrderflowError
from orderflow_client.client import UNSETTLED_STATES
from orderflow_client.events import order_events
from orderflow_server.chaos.events_audit import audit_events, published_events
from orderflow_server.chaos.expectations import Mark, Verdict
from orderflow_server.chaos.lies import lies
from orderflow_server.chaos.load import Load
from orderflow_server.chaos.processes import CannotStart, own_command
from orderflow_server.chaos.prometheus import why_not
from orderflow_server.chaos.recording import FaultSeen, Recording, percentile
from orderflow_server.chaos.sampling import INTERVAL_S, sample_servers, watch_exits
from orderflow_server.chaos.scenario import Scenario, Window, load_at
from orderflow_server.chaos.world import World, world
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.audit import AuditedOrder, audit
from orderflow_server.payments.simulator.client import fetch_ledger

_WARM_UP_ORDERS = 20
_SETTLE_TIMEOUT_S = 60.0
_AFTERWARDS_S = 2.0
"""How long the servers are looked at when all is done: the end is to be seen."""

_CLEAR_TIMEOUT_S = 30.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A scenario that has run.

    Attributes:
        without: The policy that was taken from the servers. Empty: none.
    """

    scenario: Scenario
    seed: int
    without: str
    recording: Recording
    verdicts: Sequence[Verdict]

    @property
    def word(self) -> Mark:
        """`not all checked`: what was checked passed."""
        words = {verdict.word for verdict in self.verdicts}
        if "failed" in words:
            return "failed"
        return "not all checked" if "not checked" in words else "passed"

    @property
    def conditions(self) -> str:
        """How far its times can be trusted: a machine that is busy is so before the fault, too."""
        before_s = percentile(self.recording.latencies_before_s(), 99)
        return (
            f"The customers came at most {self.recording.late_s:.2f} s too late; "
            f"before the fault p99 was {before_s:.2f} s."
        )


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many passed, and of how many others something was not checked."""
    words = [outcome.word for outcome in outcomes]
    unchecked = words.count("not all checked")
    text = f"{words.count('passed')} of {len(words)} scenarios passed"
    return f"{text}, {unchecked} as far as they were checked" if unchecked else text


@dataclass(slots=True)
class Progress:
    """A run under way, for whoever looks on.

    Attributes:
        phase: What is being done, in a word or two.
        clock: Seconds since the load began.
        broken: What is broken right now, and since when.
    """

    recording: Recording
    phase: str
    clock: Clock
    broken: dict[str, float]


async def run(
    scenario: Scenario,
    *,
    seed: int,
    without: str = "",
    look_on: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Runs it and judges it. It takes the scenario's duration, and what settling takes.

    Args:
        scenario: What to run.
        seed: Of the orders, of the gateway's faults and of the moments at which others begin.
        without: A policy to take from the servers, as in `victim`. Empty: none.
        look_on: Told four times a second how it goes.

    Raises:
        CannotStart: Some part is missing or does not start.
    """
    recording = Recording(alerts_not_seen=why_not() if scenario.alerts else "")
    progress = Progress(recording=recording, phase="starting", clock=lambda: 0.0, broken={})
    looking = asyncio.create_task(_tell(look_on, progress))
    try:
        with _scratch() as directory:
            async with (
                world(
                    directory,
                    seed=seed,
                    servers=scenario.servers,
                    usual=scenario.gateway,
                    settings=scenario.settings,
                    through_proxy=scenario.through_proxy,
                    events=scenario.expects_events,
                    alerts=bool(scenario.alerts) and not recording.alerts_not_seen,
                    without=without,
                    with_standby=scenario.with_standby,
                    sqlite=scenario.sqlite,
                    clocks_ahead_s=scenario.clocks_ahead_s,
                ) as it,
                OrderClient(it.target) as client,
            ):
                await _run(scenario, Random(seed), it, client, progress)
    except ExceptionGroup as group:
        # What fails beside the load, and ends it.
        found = group.subgroup(CannotStart)
        if found is None:
            raise
        raise _first(found) from group
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    return Outcome(
        scenario=scenario,
        seed=seed,
        without=without,
        recording=recording,
        verdicts=scenario.judge(recording),
    )


async def _run(
    scenario: Scenario, random: Random, it: World, client: OrderClient, progress: Progress
) -> None:
    recording = progress.recording
    warm = await _warm_up(client, random)
    began_s = time.monotonic()

    def clock() -> float:
        return time.monotonic() - began_s

    progress.clock, progress.phase = clock, "placing"
    windows = scenario.schedule(random)
    load = Load(
        client,
        recording,
        random=random,
        clock=clock,
        follow=scenario.follows_orders,
        read_back=scenario.reads_back,
    )
    async with _watched(it, recording, clock, listen=scenario.listens):
        async with asyncio.TaskGroup() as group:
            for window in windows:
                group.create_task(_break(window, it, progress, load))
            await load.run(
                rate_at=lambda at_s: scenario.rate * load_at(windows, at_s),
                duration_s=scenario.duration_s,
            )
        if scenario.expects_lies:
            await _look_at_lies(it, client, recording)
            await _release(it)
        progress.phase = "settling"
        with suppress(TimeoutError):  # The audit tells which have not.
            await _until_settled(client)
        await load.stop_following()
        with suppress(TimeoutError):  # And the recording, which do not.
            await _until_cleared(scenario.alerts, recording)
        await asyncio.sleep(_AFTERWARDS_S)
        recording.ended_s = clock()
    progress.phase = "auditing"
    recording.placed = len(load.acknowledged)
    with suppress(OrderflowError):  # Without a service there is no audit, and that is a finding.
        orders = [order async for order in client.list_orders(page_size=1000)]
        recording.audit = audit(
            acknowledged=[*warm, *load.acknowledged],
            orders=map(_audited, orders),
            ledger=await fetch_ledger(it.gateway),
        )
        if scenario.expects_events:
            odd = {order_id for order_id, order in recording.orders.items() if order.odd}
            versions = {order.id: order.version for order in orders if order.id not in odd}
            seen = await published_events(it.nats.url, wanted=sum(versions.values()))
            recording.events = audit_events(
                versions=versions,
                seen={order_id: came for order_id, came in seen.items() if order_id not in odd},
            )


@asynccontextmanager
async def _watched(
    it: World, recording: Recording, clock: Clock, *, listen: bool
) -> AsyncIterator[None]:
    """What servers and alerts say is written down meanwhile."""
    watching = [
        asyncio.create_task(sample_servers(it.servers, recording, clock=clock)),
        asyncio.create_task(watch_exits(it.servers, recording, clock=clock)),
    ]
    if listen:
        watching.append(asyncio.create_task(_listen(it.nats.url, recording, clock)))
    if it.prometheus is not None:
        watching.append(asyncio.create_task(it.prometheus.watch(recording, clock=clock)))
    try:
        yield
    finally:
        for watch in watching:
            watch.cancel()
        for watch in watching:
            with suppress(asyncio.CancelledError):
                await watch


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory for all that the processes write."""
    with tempfile.TemporaryDirectory(prefix="orderflow-chaos-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # PostgreSQL may run as a user who must pass through
        yield directory


def _first(group: ExceptionGroup[CannotStart]) -> CannotStart:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


async def _tell(look_on: Callable[[Progress], None], progress: Progress) -> None:
    while True:
        look_on(progress)
        await asyncio.sleep(INTERVAL_S)


async def _warm_up(client: OrderClient, random: Random) -> list[str]:
    """A few orders before anybody counts; their ids."""
    load = Load(client, Recording(), random=random, clock=time.monotonic)
    for _ in range(_WARM_UP_ORDERS):
        await load.place()
    return load.acknowledged


async def _listen(url: str, recording: Recording, clock: Clock) -> None:
    """Write down when the first event of each order comes, until it is cancelled."""
    async with aclosing(order_events([url])) as events:
        async for event in events:
            recording.published.setdefault(event.order.id, clock())


async def _look_at_lies(it: World, client: OrderClient, recording: Recording) -> None:
    """Find the orders that the gateway lied about, and those of them that are PAID for it."""
    told = list(lies(it.gateway_log))
    recording.lied_to = frozenset(order_id for order_id, _ in told)
    for order_id in recording.lied_to & recording.orders.keys():
        recording.orders[order_id].odd = True
    readable = {order_id for order_id, can_be_read in told if can_be_read}
    paid = client.list_orders(states=[order_pb2.ORDER_STATE_PAID], page_size=1000)
    recording.believed = frozenset([order.id async for order in paid if order.id in readable])


async def _release(it: World) -> None:
    """Release all parked orders, as an operator does. The audit tells when that did not work."""
    command = own_command("release", "--all", "--database", it.database_setting)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()


async def _break(window: Window, it: World, progress: Progress, load: Load) -> None:
    """Has the fault there for as long as the window says."""
    clock = progress.clock
    await asyncio.sleep(max(0.0, window.begin_s - clock()))
    begin_s = clock()
    progress.broken[window.what] = begin_s
    if window.fault is None:
        await asyncio.sleep(max(0.0, window.end_s - clock()))
    else:
        async with asyncio.TaskGroup() as customers, window.fault(it):
            if window.odd is not None:
                customers.create_task(load.place_odd(window.odd))
            await asyncio.sleep(max(0.0, window.end_s - clock()))
    del progress.broken[window.what]
    progress.recording.faults.append(FaultSeen(what=window.what, begin_s=begin_s, end_s=clock()))


async def _until_settled(client: OrderClient) -> None:
    """Returns when no order awaits the gateway.

    Raises:
        TimeoutError: After a minute some still do.
    """
    async with asyncio.timeout(_SETTLE_TIMEOUT_S):
        while True:
            with suppress(OrderflowError):  # Some servers may still be on their way back.
                page = await client.list_orders_page(states=[*UNSETTLED_STATES], page_size=1)
                if not page.orders:
                    return
            await asyncio.sleep(INTERVAL_S)


async def _until_cleared(alerts: frozenset[str], recording: Recording) -> None:
    """Returns when none of the alerts was seen firing last.

    Raises:
        TimeoutError: After half a minute some still do.
    """
    async with asyncio.timeout(_CLEAR_TIMEOUT_S):
        while _last_firing(recording) & alerts:  # noqa: ASYNC110  a list tells nobody
            await asyncio.sleep(INTERVAL_S)


def _last_firing(recording: Recording) -> frozenset[str]:
    return recording.alerts[-1].firing if recording.alerts else frozenset()


def _audited(order: order_pb2.Order) -> AuditedOrder:
    return AuditedOrder(
        id=order.id,
        state=OrderState(order_pb2.OrderState.Name(order.state).removeprefix("ORDER_STATE_")),
        total=Money(order.total.currency_code, order.total.units, order.total.nanos),
    )
