"""The processes: event loop, memory, and the writer of the store."""

from __future__ import annotations

from boards.panels import Dashboard, Panel
from boards.queries import mean, per_second, quantile

LAG = "orderflow_event_loop_lag_seconds"
BATCH_SIZE = "orderflow_store_batch_commands"
BATCH_SECONDS = "orderflow_store_batch_seconds"

LOOP = [
    Panel(
        title="Event loop lag",
        description="How late the loop runs what is due. An alert opens a ticket at 250 ms.",
        queries={
            "99th percentile, {{instance}}": quantile(0.99, LAG, "instance"),
            "median, {{instance}}": quantile(0.5, LAG, "instance"),
        },
        unit="s",
        limits=(0.05, 0.25),
    ),
    Panel(
        title="Tasks",
        description="asyncio tasks that are alive.",
        queries={"{{instance}}": "orderflow_asyncio_tasks{here}"},
    ),
    Panel(
        title="Garbage collection",
        description="Share of the time in which the collector stops everything.",
        queries={
            "generation {{generation}}, {{instance}}": per_second(
                "orderflow_gc_pause_seconds_sum", "instance, generation"
            )
        },
        unit="percentunit",
    ),
]

PROCESS = [
    Panel(
        title="CPU",
        description="Cores in use. One event loop uses little more than one.",
        queries={"{{instance}}": per_second("process_cpu_seconds_total", "instance")},
        width=6,
    ),
    Panel(
        title="Memory",
        description="Resident.",
        queries={"{{instance}}": "process_resident_memory_bytes{here}"},
        unit="bytes",
        width=6,
    ),
    Panel(
        title="File descriptors",
        description="Share of those that the process may open.",
        queries={"{{instance}}": "process_open_fds{here} / process_max_fds{here}"},
        unit="percentunit",
        width=6,
        limits=(0.6, 0.8),
    ),
    Panel(
        title="Up",
        description="Time since the process started.",
        queries={"{{instance}}": "time() - process_start_time_seconds{here}"},
        unit="s",
        width=6,
        number=True,
    ),
]

STORE = [
    Panel(
        title="Queue",
        description="Writes that wait for a batch.",
        queries={"{{instance}}": "orderflow_store_queue_depth{here}"},
        width=6,
    ),
    Panel(
        title="Writes in a batch",
        description="How many share one commit.",
        queries={
            "mean, {{instance}}": mean(BATCH_SIZE, "instance"),
            "99th percentile, {{instance}}": quantile(0.99, BATCH_SIZE, "instance"),
        },
        width=6,
    ),
    Panel(
        title="Duration of a batch",
        description="All its statements and the commit.",
        queries={
            "99th percentile, {{instance}}": quantile(0.99, BATCH_SECONDS, "instance"),
            "median, {{instance}}": quantile(0.5, BATCH_SECONDS, "instance"),
        },
        unit="s",
        width=6,
    ),
    Panel(
        title="Batches",
        description="By outcome. Poisoned: a write failed, so that all were written one by one.",
        queries={"{{outcome}}": per_second("orderflow_store_batches_total", "outcome")},
        unit="ops",
        width=6,
    ),
]

RUNTIME = Dashboard(
    name="runtime",
    title="Orderflow: runtime",
    description="The processes: event loop, memory, and the writer of the store.",
    rows={"Event loop": LOOP, "Process": PROCESS, "Store": STORE},
)
