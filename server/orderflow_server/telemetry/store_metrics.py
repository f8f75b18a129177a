"""How the store writes: its batches, how large and slow they are, and what waits for one."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from orderflow_client.telemetry.call_metrics import SECONDS_BUCKETS
from orderflow_server.storage.dialect import PoisonedBatch
from orderflow_server.storage.engine import BatchEnded

COMMANDS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Up to the most commands that a batch has by default."""

_WRITTEN, _FAILED, _POISONED = _OUTCOMES = ("written", "failed", "poisoned")


class StoreMetrics:
    """`orderflow_store_*`. Its `on_batch` is for the store's listener."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queue_depth = Gauge(
            "orderflow_store_queue_depth", "Writes that wait for a batch.", registry=registry
        )
        self._commands = Histogram(
            "orderflow_store_batch_commands",
            "How many writes were in a batch.",
            buckets=COMMANDS_BUCKETS,
            registry=registry,
        )
        self._seconds = Histogram(
            "orderflow_store_batch_seconds",
            "How long a batch took to write, its commit included.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        batches = Counter(
            "orderflow_store_batches",
            "Batches, by what became of them. Poisoned: one of the writes cannot be written; "
            "each is then tried in a batch of its own.",
            ("outcome",),
            registry=registry,
        )
        self._batches = {outcome: batches.labels(outcome) for outcome in _OUTCOMES}

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """From now on `depth` is asked, at each scrape, how many writes wait."""
        self._queue_depth.set_function(depth)

    def on_batch(self, batch: BatchEnded) -> None:
        if batch.error is None:
            outcome = _WRITTEN
        else:
            outcome = _POISONED if isinstance(batch.error, PoisonedBatch) else _FAILED
        self._batches[outcome].inc()
        self._commands.observe(batch.size)
        self._seconds.observe(batch.duration_s)
