"""What the policies do: breakers, retries, hedges, admission."""

from __future__ import annotations

from boards.panels import Dashboard, Panel
from boards.queries import CALLS, per_second, quantile

REJECTIONS = "orderflow_limiter_rejections_total"

BREAKERS = [
    Panel(
        title="State",
        description="An open breaker refuses at once; a half-open one lets one probe through.",
        queries={
            "{{breaker}} on {{instance}}": "max by (instance, breaker) ("
            'orderflow_breaker_state{here, state="open"} * 2'
            ' or orderflow_breaker_state{here, state="half_open"})'
        },
        width=16,
        states=["closed", "half open", "open"],
    ),
    Panel(
        title="Transitions",
        description="States entered.",
        queries={
            "{{breaker}} {{state}}": per_second(
                "orderflow_breaker_transitions_total", "breaker, state"
            )
        },
        unit="ops",
    ),
]

GATEWAY = [
    Panel(
        title="Answers",
        description="Calls ended, by method and code, as the service saw them after all attempts.",
        queries={
            "{{grpc_method}} {{grpc_code}}": per_second(
                "grpc_client_handled_total", "grpc_method, grpc_code"
            )
        },
        unit="reqps",
    ),
    Panel(
        title="Attempts for a call",
        description="1: nothing is repeated. Below 1: a breaker refuses before anything is sent.",
        queries={
            "{{grpc_method}}": per_second("grpc_client_attempts_total", "grpc_method")
            + " / "
            + per_second("grpc_client_started_total", "grpc_method")
        },
    ),
    Panel(
        title="Duration, 99th percentile",
        description="By method, all attempts together. The points lead to traces.",
        queries={"{{grpc_method}}": quantile(0.99, "grpc_client_handling_seconds", "grpc_method")},
        unit="s",
        exemplars=True,
    ),
]

RETRIES = [
    Panel(
        title="Retries",
        description="Attempts after one that failed: the server's own, and those to the gateway.",
        queries={"{{grpc_method}}": per_second("orderflow_retries_total", "grpc_method")},
        unit="ops",
    ),
    Panel(
        title="Hedges",
        description="Second attempts beside a slow one.",
        queries={"{{grpc_method}}": per_second("orderflow_hedges_total", "grpc_method")},
        unit="ops",
    ),
    Panel(
        title="Retry budget",
        description="Tokens left, of 10. At 5 and below nothing is retried.",
        queries={"{{target}} on {{instance}}": "orderflow_retry_budget_tokens{here}"},
        limits=(7.5, 5),
    ),
]

ADMISSION = [
    Panel(
        title="Limit and calls in flight",
        description="The limit adapts itself to the latency and to the lag of the event loop.",
        queries={
            "{{limiter}}: limit": "sum by (limiter) (orderflow_limiter_limit{here})",
            "{{limiter}}: in flight": "sum by (limiter) (orderflow_limiter_in_flight{here})",
            "{{limiter}}: waiting": "sum by (limiter) (orderflow_limiter_waiting{here})",
        },
    ),
    Panel(
        title="Refused",
        description="By reason and criticality; the least critical goes first.",
        queries={
            "{{limiter}} {{reason}} {{criticality}}": per_second(
                REJECTIONS, "limiter, reason, criticality"
            )
        },
        unit="reqps",
    ),
    Panel(
        title="Share refused",
        description="Of the calls begun. An alert opens a ticket at 1 %.",
        queries={
            "{{instance}}": per_second(REJECTIONS, "instance")
            + " / "
            + per_second("grpc_server_started_total", "instance", only=CALLS)
        },
        unit="percentunit",
        limits=(0.001, 0.01),
    ),
]

RESILIENCE = Dashboard(
    name="resilience",
    title="Orderflow: resilience",
    description="What the policies do: breakers, retries, hedges, admission.",
    rows={
        "Breakers": BREAKERS,
        "Calls to the payment gateway": GATEWAY,
        "Retries and hedges": RETRIES,
        "Admission": ADMISSION,
    },
)
