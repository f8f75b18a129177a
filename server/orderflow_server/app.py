"""The composition root: every object is made here, once, and handed what it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import grpc
import structlog
import uuid_utils
from opentelemetry.sdk.trace import TracerProvider

from orderflow_client.channel import open_channel
from orderflow_client.resilience.breaker import Breaker
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.ramp import RecoveryRamp
from orderflow_server.admission import admission_limits
from orderflow_server.background import background, look_for_changes
from orderflow_server.events.changes import ChangeHub
from orderflow_server.events.relay import OutboxRelay, RelayOptions
from orderflow_server.gateway_target import gateway_target
from orderflow_server.instruments import Instruments
from orderflow_server.ops.server import ops_server
from orderflow_server.orders.cancelling import CancelOrder
from orderflow_server.orders.order import OrderQuery
from orderflow_server.orders.placing import PlaceOrder
from orderflow_server.orders.ports import OrderStore, Outbox, PaymentGateway
from orderflow_server.payments.gateway import BREAKER as GATEWAY_BREAKER
from orderflow_server.payments.gateway import CONTRACT as GATEWAY_CONTRACT
from orderflow_server.payments.gateway import GrpcPaymentGateway
from orderflow_server.payments.pause import GatewayPause
from orderflow_server.payments.refusals import RefusalWatch
from orderflow_server.payments.settlement import (
    OrderSettled,
    Settlement,
    SettlementDeferred,
    SettlementEvent,
    SettlementListener,
)
from orderflow_server.payments.worker import PaymentWorker, WorkerOptions
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.order_event import encode_order_event
from orderflow_server.rpc.readiness import Readiness
from orderflow_server.rpc.server import (
    ORDER_DESCRIPTOR,
    ORDER_SERVICE,
    Admission,
    RpcServer,
    make_server,
)
from orderflow_server.rpc.servicer import OrderServicer
from orderflow_server.rpc.validation import RequestValidator
from orderflow_server.securing import guard_of
from orderflow_server.settings import Settings
from orderflow_server.storage.around import AroundOrderStore
from orderflow_server.storage.engine import BatchEnded
from orderflow_server.storage.guarded import guarded_by, store_outcome
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.store import EngineOrderStore
from orderflow_server.telemetry.event_spans import PublishingInItsTrace
from orderflow_server.telemetry.loop_lag import sample_loop_lag
from orderflow_server.telemetry.order_spans import current_traceparent, settling_in_its_trace
from orderflow_server.telemetry.policy_log import log_policy_event
from orderflow_server.telemetry.runtime_metrics import runtime_metrics
from orderflow_server.telemetry.store_spans import kept_span

log = structlog.get_logger("orderflow.app")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_RETRY_DELAY_S = 0.5
_MAX_RETRY_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class OrderApp:
    """The running service.

    Attributes:
        address: Where it serves, host:port, with the port it really has.
        ops_address: Likewise, where it tells of itself over HTTP.
        lost: Done, with the reason, when the database is gone for good: then health is NOT_SERVING,
            every call that needs the database fails, and the process should end.
    """

    address: str
    ops_address: str
    rpc: RpcServer
    limits: Admission
    hub: ChangeHub
    settlement: Settlement
    worker: PaymentWorker
    relay: OutboxRelay | None
    lost: asyncio.Future[str]


@asynccontextmanager
async def order_app(
    settings: Settings,
    *,
    tracer_provider: TracerProvider,
    lines_dropped: Callable[[], int] = int,
) -> AsyncIterator[OrderApp]:
    """Starts the service, SERVING when this yields, and stops it in order when the block ends.

    Args:
        settings: What can be set.
        tracer_provider: Makes the spans. Who made it flushes it, after this has ended.
        lines_dropped: Returns the number of log lines dropped so far.

    Raises:
        StoreUnavailable: The database cannot be opened.
        UnusableFile: A certificate or key cannot be read.
        OpsAddressUnavailable, RuntimeError: The address of either kind cannot be bound.
    """
    hub = ChangeHub()
    health = HealthService([ORDER_SERVICE])
    readiness = Readiness(health)
    instruments = Instruments(
        tracer_provider=tracer_provider,
        slow_call_s=settings.slow_call_s,
        serving=lambda: health.serving,
    )

    limits = admission_limits(settings, instruments)
    refusals = RefusalWatch(instruments.settlement_event)
    pause = GatewayPause(refusals)
    ramp = RecoveryRamp(max_per_s=settings.worker_recovery_per_s)

    def batch_ended(event: BatchEnded) -> None:
        instruments.batch_ended(event)
        # A relay's own marks and leases change no order.
        if event.changed:
            readiness.wrote()
            hub.publish(order.id for order in event.changed)

    async with (
        ops_server(
            settings.ops_address, registry=instruments.registry, ready=lambda: health.serving
        ) as ops_address,
        open_store_for(
            settings.database,
            max_queue=settings.write_queue,
            on_batch=batch_ended,
            origin=kept_span,
            calls_under_way=lambda: limits.unary.in_flight,
        ) as unguarded,
        gateway_target(settings.gateway) as target,
        open_channel(
            target,
            contract=GATEWAY_CONTRACT,
            listeners=[log_policy_event, pause, ramp],
            telemetry=instruments.gateway,
            breaker=GATEWAY_BREAKER,
            reserve_s=settings.reserve_s,
            only_awaited=True,
        ) as channel,
        _relaying(settings, unguarded, instruments) as relay,
    ):
        if relay is not None:
            hub.on_every_change(relay.wake)
        instruments.watch_queue(lambda: unguarded.queue_depth)
        store, breaker = _guarded(unguarded, instruments, readiness)

        async def recover() -> None:
            breaker.allow_probe()
            await store.ping()

        gateway = GrpcPaymentGateway(channel)
        settlement = Settlement(
            store=store,
            gateway=gateway,
            now=_utc_now,
            retry_delay=_retry_delay,
            listener=_settlement_listener(instruments, ramp),
            refusals=refusals,
            max_attempts=settings.worker_max_attempts,
        )
        worker = _payment_worker(settings, store, settlement, pause, ramp, instruments)
        rpc = make_server(
            settings.address,
            servicer=_servicer(settings, store, gateway, settlement, hub),
            health=health,
            limits=limits,
            guard=guard_of(settings),
            telemetry=instruments.calls,
            listeners=[instruments.policy_event],
            share_port=settings.supervised,
        )
        app = OrderApp(
            address=f"{settings.address.rpartition(':')[0]}:{rpc.port}",
            ops_address=ops_address,
            rpc=rpc,
            limits=limits,
            hub=hub,
            settlement=settlement,
            worker=worker,
            relay=relay,
            lost=asyncio.get_running_loop().create_future(),
        )
        with runtime_metrics(instruments.registry, lines_dropped) as observe_lag:
            await rpc.start()
            work = {
                "payment worker": worker.run(),
                "readiness": readiness.run(probe=unguarded.probe, recover=recover),
                "backlog": instruments.backlog.run(
                    partial(store.backlog, events=bool(settings.nats))
                ),
                "loop lag": sample_loop_lag(limits.unary.observe_lag, observe_lag),
                "database watch": _watch_database(unguarded, health, app.lost),
                "changes elsewhere": unguarded.listen(hub.publish, hub.publish_all),
                "changes untold": look_for_changes(hub, settings),
            }
            if relay is not None:
                work["outbox relay"] = relay.run()
            async with background(work), _drained(app, grace_s=settings.grace_s):
                await _warm_up(store, channel)
                health.serve()
                log.info("serving", address=app.address, ops_address=ops_address, gateway=target)
                yield app
                health.drain()
                # Lame duck: whoever balances the load sees NOT_SERVING before a call is refused.
                await asyncio.sleep(settings.lame_duck_s)
        log.info("stopped")


@asynccontextmanager
async def _relaying(
    settings: Settings, outbox: Outbox, instruments: Instruments
) -> AsyncIterator[OutboxRelay | None]:
    """The relay of events; None when they are published nowhere."""
    if not settings.nats:
        yield None
        return
    # A server that publishes nothing does without its libraries.
    from orderflow_server.events.nats_publisher import nats_publisher

    async with nats_publisher(settings.nats, encode=encode_order_event) as publisher:
        yield OutboxRelay(
            outbox=outbox,
            publisher=PublishingInItsTrace(publisher, instruments.tracer),
            holder=str(uuid4()),
            options=RelayOptions(),
            listener=instruments.relay_event,
        )


async def _watch_database(
    store: EngineOrderStore, health: HealthService, lost: asyncio.Future[str]
) -> None:
    """Ends the service's readiness when the database is gone for good."""
    reason = await store.lost()
    health.drain()
    log.error("database lost: no order can be stored, the server must stop", reason=reason)
    lost.set_result(reason)


async def _warm_up(store: OrderStore, gateway: grpc.aio.Channel) -> None:
    """What the first calls would wait for: connections, statements that are not prepared yet.

    Raises:
        StoreUnavailable: The store does not read or write. The gateway need not.
    """
    gateway.get_state(try_to_connect=True)
    await store.probe()
    await store.list(OrderQuery(limit=1))


def _guarded(
    store: OrderStore, instruments: Instruments, readiness: Readiness
) -> tuple[OrderStore, Breaker]:
    """The store, each call of which has a span and passes the breaker, and that breaker."""
    breaker = Breaker(
        "store",
        classify=store_outcome,
        listeners=[instruments.policy_event, readiness.on_event],
    )
    instruments.policies.watch_breaker(breaker.name)
    # The spans outside: what the breaker refuses is seen as well.
    guarded = AroundOrderStore(
        AroundOrderStore(store, guarded_by(breaker)), instruments.store_spans.around
    )
    return guarded, breaker


def _settlement_listener(instruments: Instruments, ramp: RecoveryRamp) -> SettlementListener:
    def on_settlement(event: SettlementEvent) -> None:
        instruments.settlement_event(event)
        match event:
            case OrderSettled():
                ramp.answered()
            case SettlementDeferred():
                ramp.unanswered()

    return on_settlement


def _payment_worker(
    settings: Settings,
    store: OrderStore,
    settlement: Settlement,
    pause: GatewayPause,
    ramp: RecoveryRamp,
    instruments: Instruments,
) -> PaymentWorker:
    return PaymentWorker(
        store=store,
        settle=settling_in_its_trace(
            lambda leased: settlement.settle_leased(
                leased, until=Deadline.after(settings.worker_payment_s)
            ),
            instruments.tracer,
        ),
        options=WorkerOptions(
            concurrency=settings.worker_concurrency,
            poll_interval_s=settings.worker_poll_s,
            lease_s=settings.worker_lease_s,
        ),
        pause=pause,
        ramp=ramp,
    )


def _servicer(
    settings: Settings,
    store: OrderStore,
    gateway: PaymentGateway,
    settlement: Settlement,
    hub: ChangeHub,
) -> OrderServicer:
    lease = timedelta(seconds=settings.lease_s)
    validator = RequestValidator(ORDER_DESCRIPTOR)
    validator.warm_up()
    return OrderServicer(
        place_order=PlaceOrder(
            store=store,
            settler=settlement,
            now=_utc_now,
            new_order_id=_new_order_id,
            lease=lease,
            traceparent=current_traceparent,
        ),
        cancel_order=CancelOrder(
            store=store, gateway=gateway, settler=settlement, now=_utc_now, lease=lease
        ),
        store=store,
        feed=hub,
        validator=validator,
        inline_limit_s=settings.inline_payment_s,
        stalled_stream_s=settings.stalled_stream_s,
    )


@asynccontextmanager
async def _drained(app: OrderApp, *, grace_s: float) -> AsyncIterator[None]:
    """At the end: no new calls; what runs finishes, then what runs behind it. The order matters.

    Calls have `grace_s`, and what is left after them as long again: in all twice of it.
    """
    try:
        yield
    finally:
        # Here, not sooner: a client whose watch ends asks again at once, and would go on so for
        # as long as the server lets it.
        app.rpc.health.end_watches()
        app.hub.close()
        # stop() returns before the cleanup of the handlers it cancelled has ended.
        await app.rpc.server.stop(grace_s)
        rest = Deadline.after(grace_s)
        await app.rpc.chain.finish(timeout_s=rest.remaining_s())
        await app.worker.stop(timeout_s=rest.remaining_s())
        await app.settlement.drain(timeout_s=rest.remaining_s())
        if app.relay is not None:
            # Behind all that makes events.
            await app.relay.stop(timeout_s=rest.remaining_s())


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_order_id(now: datetime) -> UUID:
    """A UUIDv7 whose milliseconds are those of the order's create_time."""
    microseconds = (now - _EPOCH) // _MICROSECOND
    return UUID(int=uuid_utils.uuid7(nanoseconds=microseconds * 1000).int)


def _retry_delay(attempts: int) -> timedelta:
    """How long an unresolved payment rests: 0.5 s, doubling with each attempt up to a minute."""
    doublings = min(attempts, 16)
    return timedelta(seconds=min(_FIRST_RETRY_DELAY_S * 2**doublings, _MAX_RETRY_DELAY_S))
