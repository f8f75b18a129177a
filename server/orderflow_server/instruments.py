"""Everything that watches the service: made once for it, handed to its parts as listeners."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from orderflow_client.resilience.events import PolicyEvent
from orderflow_client.telemetry import ClientTelemetry
from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_client.telemetry.policy_metrics import PolicyMetrics
from orderflow_server.events.ports import RelayEvent
from orderflow_server.payments.log import log_settlement
from orderflow_server.payments.settlement import SettlementEvent
from orderflow_server.rpc.server import CallTelemetry
from orderflow_server.storage.engine import BatchEnded
from orderflow_server.telemetry.backlog_metrics import BacklogMetrics
from orderflow_server.telemetry.event_metrics import EventMetrics
from orderflow_server.telemetry.order_metrics import OrderMetrics
from orderflow_server.telemetry.policy_log import ShedLog, log_policy_event
from orderflow_server.telemetry.service_metrics import add_service_metrics
from orderflow_server.telemetry.store_metrics import StoreMetrics
from orderflow_server.telemetry.store_spans import StoreSpans


class Instruments:
    """The service's metrics and spans.

    Args:
        tracer_provider: Makes the spans.
        slow_call_s: A call that takes longer is a warning in the log, seconds.
        serving: Whether health says so; asked at each scrape.

    Attributes:
        registry: All metrics.
        tracer: For spans of the service's own.
        calls: For the calls that are answered.
        gateway: For the channel to the gateway.
        policies: Shows breakers and limiters.
        store_spans: For what the store is asked.
        backlog: For what still has to be done.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider,
        slow_call_s: float,
        serving: Callable[[], bool],
    ) -> None:
        self.registry = CollectorRegistry()
        self.tracer = tracer_provider.get_tracer("orderflow_server")
        self.calls = CallTelemetry(
            tracer=self.tracer,
            metrics=CallMetrics("server", self.registry),
            slow_call_s=slow_call_s,
        )
        self.policies = PolicyMetrics(self.registry)
        self.gateway = ClientTelemetry(
            tracer_provider=tracer_provider, registry=self.registry, policy_metrics=self.policies
        )
        self.store_spans = StoreSpans(self.tracer)
        self.backlog = BacklogMetrics(self.registry)
        self._store = StoreMetrics(self.registry)
        self._orders = OrderMetrics(self.registry)
        self._events = EventMetrics(self.registry)
        self._sheds = ShedLog()
        add_service_metrics(self.registry, version=version("orderflow-server"), serving=serving)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Shows how many writes wait; `depth` is asked at each scrape."""
        self._store.watch_queue(depth)

    def policy_event(self, event: PolicyEvent) -> None:
        """The listener for policies of the server's own; the gateway's channel has another."""
        log_policy_event(event)
        self._sheds(event)
        self.policies(event)

    def batch_ended(self, event: BatchEnded) -> None:
        """The listener for transactions."""
        self._store.on_batch(event)
        self._orders.on_batch(event)
        self.store_spans.batch_ended(event)

    def settlement_event(self, event: SettlementEvent) -> None:
        """The listener for settlements."""
        log_settlement(event)
        self._orders.on_settlement(event)

    def relay_event(self, event: RelayEvent) -> None:
        """The listener for the relay of events."""
        self._events.on_event(event)
