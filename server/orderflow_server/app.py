"""The composition root: every object is made here, once, and handed what it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import structlog
import uuid_utils
from opentelemetry.sdk.trace import TracerProvider

from orderflow_client.channel import open_channel
from orderflow_client.resilience.breaker import Breaker
from orderflow_client.resilience.limiter import Limiter, QueueOptions
from orderflow_client.resilience.limits import AdaptiveLimit, AdaptiveLimitOptions, FixedLimit
from orderflow_server.events.changes import ChangeHub
from orderflow_server.events.nats_publisher import nats_publisher
from orderflow_server.events.relay import OutboxRelay, RelayOptions
from orderflow_server.instruments import Instruments
from orderflow_server.ops.server import ops_server
from orderflow_server.orders.cancelling import CancelOrder
from orderflow_server.orders.placing import PlaceOrder
from orderflow_server.orders.ports import OrderStore, Outbox, PaymentGateway
from orderflow_server.payments.gateway import CONTRACT as GATEWAY_CONTRACT
from orderflow_server.payments.gateway import GrpcPaymentGateway
from orderflow_server.payments.pause import GatewayPause
from orderflow_server.payments.settlement import Settlement
from orderflow_server.payments.simulator.server import PaymentSimulator
from orderflow_server.payments.worker import PaymentWorker, WorkerOptions
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.interceptors.authentication import anybody
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
from orderflow_server.settings import Settings
from orderflow_server.storage.around import AroundOrderStore
from orderflow_server.storage.engine import BatchEnded
from orderflow_server.storage.guarded import guarded_by, store_outcome
from orderflow_server.storage.opening import open_store_for
from orderflow_server.telemetry.event_spans import PublishingInItsTrace
from orderflow_server.telemetry.loop_lag import sample_loop_lag
from orderflow_server.telemetry.order_spans import current_traceparent, settling_in_its_trace
from orderflow_server.telemetry.policy_log import log_policy_event
from orderflow_server.telemetry.runtime_metrics import runtime_metrics
from orderflow_server.telemetry.store_spans import kept_span

log = structlog.get_logger("orderflow.app")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_IN_FLIGHT = 8
_INITIAL_IN_FLIGHT = 200
_MAX_WAITING = 8
_TOLERATED_QUEUE_S = 0.02
_FIRST_RETRY_DELAY_S = 0.5
_MAX_RETRY_DELAY_S = 60.0
_UNTOLD_S = 5.0
_UNTOLD_BY_SQLITE_S = 0.5


@dataclass(frozen=True, slots=True)
class OrderApp:
    """The running service.

    Attributes:
        address: Where it serves, host:port, with the port it really has.
        ops_address: Likewise, where it tells of itself over HTTP.
    """

    address: str
    ops_address: str
    rpc: RpcServer
    limits: Admission
    hub: ChangeHub
    settlement: Settlement
    worker: PaymentWorker


@asynccontextmanager
async def order_app(
    settings: Settings, *, tracer_provider: TracerProvider
) -> AsyncIterator[OrderApp]:
    """Starts the service, SERVING when this yields, and stops it in order when the block ends.

    Args:
        settings: What can be set.
        tracer_provider: Makes the spans. Who made it flushes it, after this has ended.

    Raises:
        StoreUnavailable: The database cannot be opened.
        OpsAddressUnavailable, RuntimeError: The address of either kind cannot be bound.
    """
    hub = ChangeHub()
    health = HealthService([ORDER_SERVICE])
    readiness = Readiness(health)
    pause = GatewayPause()
    instruments = Instruments(
        tracer_provider=tracer_provider,
        slow_call_s=settings.slow_call_s,
        serving=lambda: health.serving,
        now=_utc_now,
    )
    relays: list[OutboxRelay] = []

    def batch_ended(event: BatchEnded) -> None:
        instruments.batch_ended(event)
        # A relay's own marks and leases change no order.
        if event.changed:
            changed([order.id for order in event.changed])

    def changed(order_ids: Sequence[UUID]) -> None:
        hub.publish(order_ids)
        for relay in relays:
            relay.wake()

    async with (
        ops_server(
            settings.ops_address, registry=instruments.registry, ready=lambda: health.serving
        ) as ops_address,
        open_store_for(
            settings.database,
            max_queue=settings.write_queue,
            on_batch=batch_ended,
            origin=kept_span,
        ) as unguarded,
        _gateway_target(settings) as target,
        open_channel(
            target,
            contract=GATEWAY_CONTRACT,
            listeners=[log_policy_event, pause],
            telemetry=instruments.gateway,
        ) as channel,
        _relaying(settings, unguarded, instruments) as relay,
    ):
        if relay is not None:
            relays.append(relay)
        instruments.watch_queue(lambda: unguarded.queue_depth)
        store = _guarded(unguarded, instruments, readiness)
        app = _assemble(
            settings,
            ops_address,
            health,
            hub,
            store,
            GrpcPaymentGateway(channel),
            instruments,
            pause,
        )
        with runtime_metrics(instruments.registry) as observe_lag:
            await app.rpc.start()
            work: dict[str, Coroutine[Any, Any, None]] = {
                "payment worker": app.worker.run(),
                "readiness": readiness.run(store.ping),
                "backlog": instruments.backlog.run(
                    partial(store.backlog, events=bool(settings.nats))
                ),
                "loop lag": sample_loop_lag(app.limits.unary.observe_lag, observe_lag),
                "changes elsewhere": unguarded.listen(changed, hub.publish_all),
                "changes untold": _look_for_changes(hub, settings),
            }
            if relay is not None:
                work["outbox relay"] = relay.run()
            background = {asyncio.create_task(each, name=name) for name, each in work.items()}
            try:
                await store.ping()
                health.serve()
                log.info("serving", address=app.address, ops_address=ops_address, gateway=target)
                yield app
            finally:
                await _drain(app, settings)
                if relay is not None:
                    # Behind all that makes events.
                    await relay.stop(timeout_s=settings.grace_s)
                for task in background:
                    task.cancel()
                await asyncio.wait(background)
                log.info("stopped")


@asynccontextmanager
async def _relaying(
    settings: Settings, outbox: Outbox, instruments: Instruments
) -> AsyncIterator[OutboxRelay | None]:
    """The relay of events; None when they are published nowhere."""
    if not settings.nats:
        yield None
        return
    async with nats_publisher(settings.nats, encode=encode_order_event) as publisher:
        yield OutboxRelay(
            outbox=outbox,
            publisher=PublishingInItsTrace(publisher, instruments.tracer),
            holder=str(uuid4()),
            now=_utc_now,
            options=RelayOptions(),
            listener=instruments.relay_event,
        )


async def _look_for_changes(hub: ChangeHub, settings: Settings) -> None:
    """Has the watchers look themselves, where another process may have changed an order unheard.

    PostgreSQL tells of changes; this is for what gets lost on the way. SQLite does not.
    """
    if settings.database.path is None:
        interval_s = _UNTOLD_S
    elif settings.supervised:
        interval_s = _UNTOLD_BY_SQLITE_S
    else:
        return
    while True:
        await asyncio.sleep(interval_s)
        hub.publish_all()


def _guarded(store: OrderStore, instruments: Instruments, readiness: Readiness) -> OrderStore:
    """The store, each call of which has a span and passes the breaker."""
    breaker = Breaker(
        "store",
        classify=store_outcome,
        listeners=[instruments.policy_event, readiness.on_event],
    )
    instruments.policies.watch_breaker(breaker.name)
    # The spans outside: what the breaker refuses is seen as well.
    return AroundOrderStore(
        AroundOrderStore(store, guarded_by(breaker)), instruments.store_spans.around
    )


def _assemble(
    settings: Settings,
    ops_address: str,
    health: HealthService,
    hub: ChangeHub,
    store: OrderStore,
    gateway: PaymentGateway,
    instruments: Instruments,
    pause: GatewayPause,
) -> OrderApp:
    lease = timedelta(seconds=settings.lease_s)
    settlement = Settlement(
        store=store,
        gateway=gateway,
        now=_utc_now,
        reserve_s=settings.reserve_s,
        retry_delay=_retry_delay,
        listener=instruments.settlement_event,
        max_attempts=settings.worker_max_attempts,
    )
    worker = PaymentWorker(
        store=store,
        settle=settling_in_its_trace(
            lambda leased: settlement.settle_leased(leased, budget_s=settings.inline_payment_s),
            instruments.tracer,
        ),
        now=_utc_now,
        options=WorkerOptions(
            concurrency=settings.worker_concurrency,
            poll_interval_s=settings.worker_poll_s,
            lease_s=settings.lease_s,
        ),
        pause=pause,
    )
    validator = RequestValidator(ORDER_DESCRIPTOR)
    validator.warm_up()
    servicer = OrderServicer(
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
        reserve_s=settings.reserve_s,
    )
    limits = Admission(
        unary=Limiter(
            AdaptiveLimit(
                AdaptiveLimitOptions(
                    min_limit=_MIN_IN_FLIGHT,
                    initial_limit=min(_INITIAL_IN_FLIGHT, settings.max_in_flight),
                    max_limit=settings.max_in_flight,
                    window_s=0.1,
                    slack_s=_TOLERATED_QUEUE_S,
                )
            ),
            name="calls",
            queue=QueueOptions(max_waiting=_MAX_WAITING),
            listeners=[instruments.policy_event],
        ),
        streams=Limiter(
            FixedLimit(settings.max_streams), name="streams", listeners=[instruments.policy_event]
        ),
    )
    instruments.policies.watch_limiter(limits.unary, "calls")
    instruments.policies.watch_limiter(limits.streams, "streams")
    rpc = make_server(
        settings.address,
        servicer=servicer,
        health=health,
        limits=limits,
        authenticate=anybody(trusted=settings.trust_callers),
        telemetry=instruments.calls,
        listeners=[instruments.policy_event],
        max_request_bytes=settings.max_request_bytes,
        share_port=settings.supervised,
    )
    host, _, _ = settings.address.rpartition(":")
    return OrderApp(f"{host}:{rpc.port}", ops_address, rpc, limits, hub, settlement, worker)


async def _drain(app: OrderApp, settings: Settings) -> None:
    """Stops taking work, finishes what runs, then what runs behind it; the order matters."""
    app.rpc.health.drain()
    # Lame duck: whoever balances the load sees NOT_SERVING before a call is refused.
    await asyncio.sleep(settings.lame_duck_s)
    app.hub.close()
    # stop() returns before the cleanup of the handlers it cancelled has ended.
    await app.rpc.server.stop(settings.grace_s)
    await app.rpc.chain.finish(timeout_s=settings.grace_s)
    await app.worker.stop(timeout_s=settings.grace_s)
    await app.settlement.drain(timeout_s=settings.grace_s)


@asynccontextmanager
async def _gateway_target(settings: Settings) -> AsyncIterator[str]:
    if settings.gateway:
        yield settings.gateway
        return
    async with PaymentSimulator() as simulator:
        log.warning("no gateway is set: payments are simulated, no money moves")
        yield simulator.target


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_order_id(now: datetime) -> UUID:
    """A UUIDv7 whose milliseconds are those of the order's create_time."""
    microseconds = (now - _EPOCH) // timedelta(microseconds=1)
    return UUID(int=uuid_utils.uuid7(nanoseconds=microseconds * 1000).int)


def _retry_delay(attempts: int) -> timedelta:
    """How long an unresolved payment rests: 0.5 s, doubling with each attempt up to a minute."""
    doublings = min(attempts, 16)
    return timedelta(seconds=min(_FIRST_RETRY_DELAY_S * 2**doublings, _MAX_RETRY_DELAY_S))
