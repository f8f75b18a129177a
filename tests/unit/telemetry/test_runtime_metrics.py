from __future__ import annotations

import asyncio
import gc

import pytest
from prometheus_client import CollectorRegistry

from orderflow_server.telemetry.gc_pauses import GcPauses, gc_pauses
from orderflow_server.telemetry.loop_lag import sample_loop_lag
from orderflow_server.telemetry.runtime_metrics import runtime_metrics


def names(registry: CollectorRegistry) -> set[str]:
    return {sample.name for metric in registry.collect() for sample in metric.samples}


def pauses(registry: CollectorRegistry, generation: int) -> float:
    labels = {"generation": str(generation)}
    return registry.get_sample_value("orderflow_gc_pause_seconds_count", labels) or 0.0


async def test_the_process_its_interpreter_and_its_collector_are_told_of() -> None:
    registry = CollectorRegistry()
    with runtime_metrics(registry):
        assert {
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
            "python_info",
            "python_gc_collections_total",
            "orderflow_event_loop_lag_seconds_bucket",
            "orderflow_asyncio_tasks",
            "orderflow_gc_pause_seconds_bucket",
        } <= names(registry)


async def test_the_lag_goes_to_the_histogram() -> None:
    registry = CollectorRegistry()
    with runtime_metrics(registry) as observe_lag:
        observe_lag(0.02)
        observe_lag(0.3)
    assert registry.get_sample_value("orderflow_event_loop_lag_seconds_sum") == 0.32
    assert registry.get_sample_value("orderflow_event_loop_lag_seconds_bucket", {"le": "0.25"}) == 1


async def test_tasks_are_counted_when_asked_for() -> None:
    registry = CollectorRegistry()

    def tasks() -> float:
        return registry.get_sample_value("orderflow_asyncio_tasks") or 0.0

    with runtime_metrics(registry):
        before = tasks()
        more = [asyncio.create_task(asyncio.Event().wait()) for _ in range(5)]
        assert tasks() == before + 5
        for task in more:
            task.cancel()
        await asyncio.wait(more)
        assert tasks() == before


@pytest.fixture
def no_automatic_collections() -> object:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_automatic_collections")
def test_each_collection_is_counted_while_open_and_none_after() -> None:
    registry = CollectorRegistry()
    callbacks = list(gc.callbacks)
    with gc_pauses(registry):
        gc.collect(0)
        gc.collect(0)
        gc.collect(2)
    gc.collect(2)
    assert [pauses(registry, generation) for generation in range(3)] == [2, 0, 1]
    assert gc.callbacks == callbacks


@pytest.mark.usefixtures("no_automatic_collections")
def test_it_stops_listening_also_when_the_block_fails() -> None:
    callbacks = list(gc.callbacks)
    with pytest.raises(ZeroDivisionError), gc_pauses(CollectorRegistry()):
        raise ZeroDivisionError
    assert gc.callbacks == callbacks


def test_a_pause_lasts_from_start_to_stop() -> None:
    times = iter([0.0, 10.0, 10.003, 20.0, 22.5])
    registry = CollectorRegistry()
    measured = GcPauses(clock=lambda: next(times))
    registry.register(measured)
    for _ in range(2):
        measured("start", {"generation": 1})
        measured("stop", {"generation": 1})

    def bucket(le: str) -> float | None:
        labels = {"generation": "1", "le": le}
        return registry.get_sample_value("orderflow_gc_pause_seconds_bucket", labels)

    assert [bucket(le) for le in ("0.0025", "0.005", "1.0", "+Inf")] == [0, 1, 1, 2]
    total = registry.get_sample_value("orderflow_gc_pause_seconds_sum", {"generation": "1"})
    assert total == pytest.approx(2.503)
    assert pauses(registry, 0) == 0


@pytest.mark.usefixtures("no_automatic_collections")
def test_a_collection_may_begin_while_the_metrics_are_read() -> None:
    """With one of the library's own histograms this waits for a lock that it holds itself."""
    registry = CollectorRegistry()
    with gc_pauses(registry):
        gc.enable()
        threshold = gc.get_threshold()
        gc.set_threshold(1, 1, 1)
        try:
            before = pauses(registry, 0)
            for _ in range(10):
                names(registry)
        finally:
            gc.set_threshold(*threshold)
        assert pauses(registry, 0) > before


async def test_the_lag_is_told_to_every_observer() -> None:
    time_s = 0.0

    async def oversleep(delay_s: float) -> None:
        nonlocal time_s
        if len(first) == 2:
            raise ZeroDivisionError  # the way out
        time_s += delay_s + 0.25

    first: list[float] = []
    second: list[float] = []
    with pytest.raises(ZeroDivisionError):
        await sample_loop_lag(first.append, second.append, sleep=oversleep, clock=lambda: time_s)
    assert first == pytest.approx([0.25, 0.25])
    assert second == first
