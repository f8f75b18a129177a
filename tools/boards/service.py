"""Whether callers get what they were promised, and what they ask for."""

from __future__ import annotations

from boards.panels import Dashboard, Panel
from boards.queries import CALLS, UNARY, per_second, quantile

# As in deploy/prometheus/rules/slo.yaml: a watch may last until its deadline or a server's drain.
FAILED = 'grpc_code=~"UNKNOWN|RESOURCE_EXHAUSTED|UNIMPLEMENTED|INTERNAL|DATA_LOSS"'
FAILED_UNARY = 'grpc_type="unary", grpc_code=~"DEADLINE_EXCEEDED|UNAVAILABLE"'
HANDLED = "grpc_server_handled_total"
SECONDS = "grpc_server_handling_seconds"

OBJECTIVES = [
    Panel(
        title="Error budget left",
        description="Availability: 99.9 % of the calls. Latency: 99 % of CreateOrder within 1 s. "
        "Below 0 the objective is missed.",
        queries={"{{slo}}": "orderflow:slo_budget_left:ratio{fleet}"},
        unit="percentunit",
        width=6,
        limits=(0.25, 0.0),
        number=True,
    ),
    Panel(
        title="Burn rate",
        description="1 uses up the budget in exactly 30 days. Alerts page at 14.4 over an hour and "
        "at 6 over six hours.",
        queries={
            "{{slo}}, 1 h": "orderflow:slo_burn:rate1h{fleet}",
            "{{slo}}, 6 h": "orderflow:slo_burn:rate6h{fleet}",
            "{{slo}}, 3 d": "orderflow:slo_burn:rate3d{fleet}",
        },
        width=10,
        limits=(6, 14.4),
    ),
    Panel(
        title="Serving",
        description="What health says, for each instance.",
        queries={"{{instance}}": "orderflow_serving{here}"},
        width=4,
        states=["not serving", "serving"],
    ),
    Panel(
        title="Instances by version",
        description="How many instances run which version.",
        queries={"{{version}}": "sum by (version) (orderflow_build_info{here})"},
        width=4,
        number=True,
    ),
]

BY_METHOD = [
    Panel(
        title="Rate",
        description="Calls begun, by method.",
        queries={
            "{{grpc_method}}": per_second("grpc_server_started_total", "grpc_method", only=CALLS)
        },
        unit="reqps",
    ),
    Panel(
        title="Failed",
        description="Share of the calls that failed because of the service, by method; what the "
        "availability objective counts.",
        queries={
            "{{grpc_method}}": "sum by (grpc_method) ("
            f"rate({HANDLED}{{here, {CALLS}, {FAILED}}}[$__rate_interval])"
            f" or rate({HANDLED}{{here, {CALLS}, {FAILED_UNARY}}}[$__rate_interval])"
            f") / {per_second(HANDLED, 'grpc_method', only=CALLS)}"
        },
        unit="percentunit",
    ),
    Panel(
        title="Duration, 99th percentile",
        description="By method, without watches. The points are single calls: each leads to its "
        "trace.",
        queries={"{{grpc_method}}": quantile(0.99, SECONDS, "grpc_method", only=UNARY)},
        unit="s",
        exemplars=True,
    ),
    Panel(
        title="Answers other than OK",
        description="By method and code, the callers' own errors included.",
        queries={
            "{{grpc_method}} {{grpc_code}}": per_second(
                HANDLED, "grpc_method, grpc_code", only=f'{CALLS}, grpc_code!="OK"'
            )
        },
        unit="reqps",
    ),
    Panel(
        title="Running",
        description="Calls begun and not yet ended, by method.",
        queries={
            "{{grpc_method}}": "sum by (grpc_method) "
            f"(grpc_server_started_total{{here, {CALLS}}})"
            f" - sum by (grpc_method) ({HANDLED}{{here, {CALLS}}})"
        },
    ),
    Panel(
        title="Duration, median",
        description="By method, without watches.",
        queries={"{{grpc_method}}": quantile(0.5, SECONDS, "grpc_method", only=UNARY)},
        unit="s",
        exemplars=True,
    ),
]

WHERE = [
    Panel(
        title="By instance",
        description="Calls begun: whether the load is spread.",
        queries={"{{instance}}": per_second("grpc_server_started_total", "instance", only=CALLS)},
        unit="reqps",
        width=12,
    ),
    Panel(
        title="Other services",
        description="Health, reflection, and calls to what does not exist (other).",
        queries={
            "{{grpc_service}}": per_second(
                "grpc_server_started_total",
                "grpc_service",
                only='grpc_service!="orderflow.v1.OrderService"',
            )
        },
        unit="reqps",
        width=12,
    ),
]

SERVICE = Dashboard(
    name="service",
    title="Orderflow: service",
    description="Whether callers get what they were promised, and what they ask for.",
    rows={
        "Objectives over 30 days": OBJECTIVES,
        "Calls by method": BY_METHOD,
        "All calls": WHERE,
    },
)
