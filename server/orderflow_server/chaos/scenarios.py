"""All scenarios. What each expects was seen to hold on two busy cores, with room to spare."""

from __future__ import annotations

from collections.abc import Mapping

from orderflow_server.chaos import faults
from orderflow_server.chaos.expectations import (
    Amplification,
    BooksAgree,
    BreakerOpensAndCloses,
    BreakerStaysClosed,
    Latency,
    SuccessRate,
)
from orderflow_server.chaos.scenario import Scenario, Window
from orderflow_server.payments.simulator.faults import Faults

_ANSWERS_S = 0.005
"""The gateway's median latency, at which nothing is wrong."""

_ALL = (
    Scenario(
        name="gateway-timeouts",
        shows="A tenth of the calls to the gateway never answer, and no caller notices but by "
        "waiting: the attempt is given up after a second and made again.",
        duration_s=25,
        windows=[
            Window(
                what="10 % of gateway calls time out",
                begin_s=4,
                end_s=20,
                fault=faults.gateway(Faults(latency_median_s=_ANSWERS_S, timeout_rate=0.1)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            Latency(p99_at_most_s=4.0),
            BreakerStaysClosed(breaker="gateway"),
            Amplification(at_most=1.25),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="gateway-down",
        shows="The gateway is down for 30 s. Orders are placed all the same and paid later; the "
        "breaker keeps callers from waiting for it.",
        duration_s=45,
        windows=[
            Window(
                what="gateway down",
                begin_s=5,
                end_s=35,
                fault=faults.gateway(Faults(outage=True)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            Latency(p99_at_most_s=2.0),
            BreakerOpensAndCloses(breaker="gateway", opened_within_s=5, closed_within_s=30),
            Amplification(at_most=1.5),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="server-killed",
        shows="One of two servers is killed without a word. Its calls are made again at the "
        "other, under the same request_id: each order is placed once.",
        duration_s=25,
        servers=2,
        windows=[
            Window(
                what="server 1 killed",
                begin_s=5,
                end_s=9,
                fault=faults.first_server_killed,
            ),
            Window(
                what="server 1 killed",
                begin_s=14,
                end_s=17,
                fault=faults.first_server_killed,
            ),
        ],
        expectations=[
            SuccessRate(at_least_percent=99.5),
            Latency(p99_at_most_s=3.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="database-restart",
        shows="The database crashes and is back after 3 s. What was acknowledged is there; calls "
        "that could not be are told so at once, and the breaker closes by itself.",
        duration_s=30,
        windows=[
            Window(
                what="database down",
                begin_s=5,
                end_s=8,
                fault=faults.database_down,
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=65),
            Latency(p99_at_most_s=10.0),
            BreakerOpensAndCloses(breaker="store", opened_within_s=5, closed_within_s=15),
            BooksAgree(),
        ],
    ),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
"""By name, in the order in which `all` runs them."""
