"""All scenarios. What each expects was seen to hold on two busy cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orderflow_server.chaos import faults
from orderflow_server.chaos.contained import EventsSetAside, Exits, NoneBelieved, NoneParked
from orderflow_server.chaos.expectations import (
    AlertFires,
    Amplification,
    BooksAgree,
    BreakerOpensAndCloses,
    BreakerStaysClosed,
    EventsAgree,
    Goodput,
    Latency,
    Recovers,
    Refusals,
    Retries,
    SuccessRate,
)
from orderflow_server.chaos.load import OddOrders
from orderflow_server.chaos.others import (
    EventsWithin,
    FoundAtOnce,
    OddSettle,
    SettledInline,
    SettledWithin,
)
from orderflow_server.chaos.ramps import Ramp
from orderflow_server.chaos.scenario import USUAL, Scenario, Window
from orderflow_server.payments.simulator.faults import Faults

_HANGS = "tok_hangs"

_ALL = (
    Scenario(
        name="gateway-timeouts",
        shows="A tenth of the calls to the gateway never answer, and no order fails for it. An "
        "attempt is given up after a second and made again while the retry budget allows it; "
        "what is not paid then is paid later.",
        duration_s=25,
        windows=[
            Window(
                what="10 % of gateway calls time out",
                begin_s=4,
                end_s=20,
                fault=faults.gateway(replace(USUAL, timeout_rate=0.1)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            Latency(p99_at_most_s=4.0),
            BreakerStaysClosed(breaker="gateway"),
            Retries(at_most=1.25),
            Amplification(at_most=1.6),
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
            AlertFires(alert="BreakerOpen", fires_within_s=10, clears_within_s=35),
            AlertFires(alert="OrdersPendingTooLong", fires_within_s=25, clears_within_s=40),
            Retries(at_most=1.5),
            Amplification(at_most=1.0),
            Ramp(counter="attempts", first_s=2, first_times=4, most_times=10),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="gateway-errors",
        shows="A third of the calls to the gateway fail, too few for its breaker. The retry "
        "budget keeps retries from adding to its trouble.",
        duration_s=22,
        windows=[
            Window(
                what="35 % of gateway calls fail",
                begin_s=4,
                end_s=16,
                fault=faults.gateway(replace(USUAL, error_rate=0.35)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            Latency(p99_at_most_s=2.0),
            Retries(at_most=1.2),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="gateway-slow",
        shows="The gateway takes 2 s where it took 5 ms, longer than an attempt of a caller may. "
        "Callers are answered after that second. The worker waits longer and gets its answers, so "
        "the gateway is not down and its breaker stays closed.",
        duration_s=30,
        windows=[
            Window(
                what="gateway takes 2 s",
                begin_s=4,
                end_s=16,
                fault=faults.gateway(replace(USUAL, latency_median_s=2.0, latency_sigma=0.1)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            Latency(p99_at_most_s=3.0),
            BreakerStaysClosed(breaker="gateway"),
            Retries(at_most=1.5),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="answers-lost",
        shows="A third of the payments are made and their answers lost. They are asked for again "
        "under the same key, and nobody pays twice.",
        duration_s=25,
        windows=[
            Window(
                what="30 % of the gateway's answers lost",
                begin_s=4,
                end_s=18,
                fault=faults.gateway(replace(USUAL, lost_answer_rate=0.3)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            Latency(p99_at_most_s=4.5),
            Retries(at_most=1.25),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="database-restart",
        shows="The database crashes and is back after 3 s. What was acknowledged is there, and "
        "the service goes on by itself.",
        duration_s=25,
        # By then so many calls were well that no breaker opens: that is for the next scenario.
        windows=[Window(what="database down", begin_s=9, end_s=12, fault=faults.database_down)],
        expectations=[
            SuccessRate(at_least_percent=70),
            Recovers(within_s=6),
            Latency(p99_at_most_s=8.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="database-down",
        shows="The database is down for 10 s. Its breaker opens, so that calls fail at once; "
        "once it is back, a probe closes it.",
        duration_s=40,
        windows=[Window(what="database down", begin_s=5, end_s=15, fault=faults.database_down)],
        expectations=[
            BreakerOpensAndCloses(breaker="store", opened_within_s=8, closed_within_s=18),
            AlertFires(alert="NoInstanceServing", fires_within_s=12, clears_within_s=20),
            AlertFires(alert="BreakerOpen", fires_within_s=12, clears_within_s=20),
            # The server's breaker may have probed just before the end, and waits twice as long
            # then; the client's waits for it, as it is told.
            Recovers(within_s=20),
            Latency(p99_at_most_s=8.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="database-errors",
        shows="Once a second the database ends all its connections. The server makes them again, "
        "and what failed in between is tried once more.",
        duration_s=25,
        windows=[
            Window(
                what="connections lost",
                begin_s=4,
                end_s=18,
                fault=faults.connections_lost(every_s=1.0),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=97),
            Latency(p99_at_most_s=5.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="database-cut",
        shows="The network between server and database is slow for a while, and later nothing "
        "passes for 4 s, nor is anybody told. It is used again as soon as it is back.",
        duration_s=35,
        through_proxy=True,
        windows=[
            Window(
                what="database 20 ms away",
                begin_s=4,
                end_s=12,
                fault=faults.network_slow(0.02),
            ),
            Window(what="network cut", begin_s=16, end_s=20, fault=faults.network_cut),
        ],
        expectations=[
            # The cut is 4 s of 35: should all its calls be refused instead of waiting for its end,
            # 11 % are, and it takes a moment until connections are made again.
            SuccessRate(at_least_percent=85),
            Recovers(within_s=10),
            Latency(p99_at_most_s=10.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="server-killed",
        shows="One of two servers is killed without a word, later the other. Its calls are made "
        "again where one is left, under the same request_id: each order is placed once, and each "
        "of its events comes.",
        duration_s=28,
        servers=2,
        windows=[
            Window(what="server 1 killed", begin_s=5, end_s=8, fault=faults.server_killed(1)),
            Window(what="server 2 killed", begin_s=18, end_s=21, fault=faults.server_killed(2)),
        ],
        expectations=[
            SuccessRate(at_least_percent=99.5),
            Latency(p99_at_most_s=3.0),
            AlertFires(alert="InstanceDown", fires_within_s=5, clears_within_s=5),
            BooksAgree(),
            EventsAgree(),
        ],
    ),
    Scenario(
        name="nats-down",
        shows="NATS is down for 10 s. Orders go on; their events wait in the outbox, and are "
        "published in order once it is back.",
        duration_s=25,
        windows=[Window(what="NATS down", begin_s=5, end_s=15, fault=faults.nats_down)],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            Latency(p99_at_most_s=2.0),
            AlertFires(alert="OutboxLagging", fires_within_s=10, clears_within_s=12),
            Ramp(counter="published", first_s=2, first_times=4, most_times=10),
            BooksAgree(),
            EventsAgree(),
        ],
    ),
    Scenario(
        name="rolling-restart",
        shows="Two servers are stopped in order and started again, in turn, again and again, and "
        "no call fails.",
        duration_s=32,
        servers=2,
        settings={"LAME_DUCK_S": "0.5"},
        windows=[
            Window(
                what="rolling restart",
                begin_s=4,
                end_s=28,
                fault=faults.servers_restarted(between_s=2.0),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=100),
            Latency(p99_at_most_s=3.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="loop-blocked",
        shows="Every 3 s both servers stand still for a second, as by a call that should have "
        "been in a thread. Calls wait, and no more than that.",
        duration_s=25,
        servers=2,
        windows=[
            Window(
                what="event loops blocked",
                begin_s=4,
                end_s=18,
                fault=faults.loops_blocked(every_s=3.0),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99),
            Latency(p99_at_most_s=4.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="overload",
        shows="Four times as many orders come as the server can carry. It goes on doing what it "
        "can, and refuses the rest at once; afterwards all is as before.",
        duration_s=30,
        rate=25,
        # At most 20 calls wait for the gateway at once, 0.4 s each: about 50 a second.
        settings={"MAX_IN_FLIGHT": "20"},
        gateway=replace(USUAL, latency_median_s=0.4, latency_sigma=0.2),
        windows=[Window(what="4 times the capacity", begin_s=5, end_s=20, load=8)],
        expectations=[
            Refusals(failed_at_most_percent=1),
            Goodput(at_least=20),
            AlertFires(alert="AvailabilityBurnFast", fires_within_s=5, clears_within_s=9),
            # With its retries, for which the client obeys the server's pushback.
            Latency(p99_at_most_s=6.0),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="poison-event",
        shows="The stream refuses the events of a few orders, which are too large for it. They are "
        "set aside at once, and the events of all other orders are published as usual.",
        duration_s=20,
        rate=30,
        windows=[
            Window(
                what="large events refused",
                begin_s=4,
                end_s=15,
                fault=faults.messages_limited(4096),
                odd=OddOrders(count=3, every_s=0.5, large=True),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            EventsWithin(at_most_s=2.0),
            EventsSetAside(),
            BooksAgree(),
            EventsAgree(),
        ],
    ),
    Scenario(
        name="hanging-orders",
        shows="The charges of 25 orders never answer. The 2 orders a second that are placed "
        "alongside are paid in their answers; the 25 are paid once their charges answer.",
        duration_s=30,
        rate=2,
        windows=[
            Window(
                what="25 charges hang",
                begin_s=4,
                end_s=28,
                fault=faults.gateway(replace(USUAL, hanging_token=_HANGS)),
                odd=OddOrders(count=25, payment_token=_HANGS),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            SettledInline(at_least_percent=99),
            SettledWithin(at_most_s=2.0),
            OddSettle(within_s=60),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="lying-gateway",
        shows="A fifth of the gateway's answers are wrong: another key, amount, currency or state, "
        "or bytes that cannot be parsed. The orders concerned are parked until an operator "
        "releases them, and all others are paid as usual.",
        duration_s=18,
        rate=20,
        windows=[
            Window(
                what="20 % of gateway answers wrong",
                begin_s=4,
                end_s=12,
                fault=faults.gateway(replace(USUAL, lie_rate=0.2)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            SettledWithin(at_most_s=2.0),
            NoneBelieved(),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="slow-gateway",
        shows="The gateway takes 1.2 s for every answer, longer than an attempt may, and charges "
        "all the same. Orders are not paid in their answers, and all of them soon after.",
        duration_s=30,
        rate=5,
        windows=[
            Window(
                what="gateway takes 1.2 s",
                begin_s=4,
                end_s=29,
                fault=faults.gateway(replace(USUAL, latency_median_s=1.2, latency_sigma=0)),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            SettledWithin(at_most_s=15.0, percent=100),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="refusing-gateway",
        shows="The gateway refuses every call for 5 s as one that it does not have. No order is "
        "parked for that, and all are paid soon after.",
        duration_s=25,
        rate=30,
        windows=[
            Window(
                what="gateway refuses every call",
                begin_s=4,
                end_s=9,
                fault=faults.gateway(replace(USUAL, refuse_code="UNIMPLEMENTED")),
            )
        ],
        expectations=[
            SuccessRate(at_least_percent=99.9),
            NoneParked(),
            SettledWithin(at_most_s=20.0, percent=100),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="clock-ahead",
        shows="The wall clock of one of two servers is a day ahead, and the server is killed while "
        "it holds orders and the lease of the relay. The other server takes both over as if the "
        "clock had been right.",
        duration_s=30,
        rate=30,
        servers=2,
        clocks_ahead_s={2: 86_400.0},
        windows=[
            # Orders await payment when the server is killed, those of the clock ahead among them.
            Window(
                what="gateway down",
                begin_s=4,
                end_s=9,
                fault=faults.gateway(Faults(outage=True)),
            ),
            Window(what="server 2 killed", begin_s=9.6, end_s=28, fault=faults.server_killed(2)),
        ],
        expectations=[
            SuccessRate(at_least_percent=99),
            SettledWithin(at_most_s=22.0, percent=100),
            EventsWithin(at_most_s=10.0, percent=100),
            BooksAgree(),
            EventsAgree(),
        ],
    ),
    Scenario(
        name="failover",
        shows="The standby of PostgreSQL becomes the primary, and the old primary stays up and is "
        "read-only. Writers and readers follow: each new order is found at once.",
        duration_s=28,
        rate=30,
        servers=2,
        with_standby=True,
        windows=[Window(what="failover", begin_s=5, end_s=7, fault=faults.failover)],
        expectations=[
            FoundAtOnce(),
            Recovers(within_s=10),
            BooksAgree(),
        ],
    ),
    Scenario(
        name="deleted-file",
        shows="The file of a SQLite database is deleted under the server. The server notices, "
        "acknowledges no more orders and ends; started again it has a new file.",
        duration_s=30,
        rate=30,
        sqlite=True,
        windows=[Window(what="file deleted", begin_s=5, end_s=10, fault=faults.file_deleted)],
        expectations=[
            Exits(code=1, noticed_within_s=1.0, within_s=8.0),
            Recovers(within_s=12),
        ],
    ),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
"""By name, in the order in which `all` runs them."""
