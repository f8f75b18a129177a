"""What happened in one run of a scenario. All times are seconds since its load began."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orderflow_server.chaos.events_audit import EventsAudit
from orderflow_server.payments.audit import Audit

OK = "OK"
REFUSED = "refused"
"""The outcome of a call that came when there were too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as its caller saw it, retries included.

    Attributes:
        outcome: `OK`, `REFUSED`, or the reason of the failure.
    """

    begun_s: float
    took_s: float
    outcome: str

    @property
    def ended_s(self) -> float:
        return self.begun_s + self.took_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one server told of itself at one moment.

    Attributes:
        server: Its number.
        gateway_breaker, store_breaker: closed, half_open or open.
        attempts: On the gateway, since the server started; so are `retries`, which are among them.
        limit: Unary calls that may run at once; `in_flight` do.
        parked: Orders that are parked, in the whole database.
        published: Events published, since the server started; so are `refused_events`, those that
            the stream refused for good.
    """

    at_s: float
    server: int
    gateway_breaker: str
    store_breaker: str
    attempts: float
    retries: float
    limit: float
    in_flight: float
    parked: float = 0.0
    published: float = 0.0
    refused_events: float = 0.0

    def breaker(self, name: str) -> str:
        """The state of `gateway` or `store`."""
        return self.gateway_breaker if name == "gateway" else self.store_breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSeen:
    """A fault as it really was: from when it was done to when all was mended."""

    what: str
    begin_s: float
    end_s: float


@dataclass(slots=True, kw_only=True)
class Placed:
    """One acknowledged order.

    Attributes:
        begun_s, acknowledged_s: When its call began and ended.
        odd: The fault is this order's own, such as a payment token that hangs. The others should
            not notice.
        inline: It was settled in the answer.
        settled_s: When it was seen to be settled. None: it was not seen.
    """

    begun_s: float
    acknowledged_s: float
    odd: bool = False
    inline: bool = False
    settled_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitSeen:
    """A server's process that ended; negative codes are signals."""

    at_s: float
    server: int
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertsSeen:
    """Which alerts fired at one moment, by name."""

    at_s: float
    firing: frozenset[str]


@dataclass(slots=True)
class Recording:
    """What is written down while a scenario runs.

    Attributes:
        faults: In the order in which they ended.
        late_s: By how much a customer came too late at most, because the machine was busy with
            other things. A run in which that is seconds says little of the service.
        ended_s: When the last order had settled, or nobody waited for it any more.
        placed: How many orders were acknowledged.
        audit: The orders against the gateway's ledger. None: not done yet.
        events: What was published against the orders. None: not done, or nothing was to be.
        alerts: In the order of time; empty when nobody looked.
        alerts_not_seen: Why nobody did. Empty: somebody did, or nothing was expected of them.
        orders: The acknowledged orders, by id.
        reads: GetOrder of each order as soon as it was acknowledged, where the scenario does that.
        published: When the first event of an order was received, by the order's id, where the
            scenario listens.
        exits: Of the servers, in the order of time.
        lied_to: Ids of the orders about which the gateway gave a wrong answer.
        believed: Ids of those that were PAID on one.
    """

    calls: list[Call] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[FaultSeen] = field(default_factory=list)
    late_s: float = 0.0
    ended_s: float = 0.0
    placed: int = 0
    audit: Audit | None = None
    events: EventsAudit | None = None
    alerts: list[AlertsSeen] = field(default_factory=list)
    alerts_not_seen: str = ""
    orders: dict[str, Placed] = field(default_factory=dict)
    reads: list[Call] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    exits: list[ExitSeen] = field(default_factory=list)
    lied_to: frozenset[str] = frozenset()
    believed: frozenset[str] = frozenset()

    @property
    def trouble_s(self) -> tuple[float, float]:
        """From the beginning of the first fault to the end of the last."""
        return (
            min(fault.begin_s for fault in self.faults),
            max(fault.end_s for fault in self.faults),
        )

    def others(self) -> dict[str, Placed]:
        """Return the orders that were placed during the faults and are not odd, by id."""
        begin_s, end_s = self.trouble_s
        return {
            order_id: order
            for order_id, order in self.orders.items()
            if begin_s <= order.begun_s < end_s and not order.odd
        }

    def latencies_s(self) -> list[float]:
        """Of the calls that succeeded."""
        return [call.took_s for call in self.calls if call.outcome == OK]

    def latencies_before_s(self) -> list[float]:
        """Of the calls that succeeded before the first fault began."""
        begin_s, _ = self.trouble_s
        calls = (call for call in self.calls if call.outcome == OK)
        return [call.took_s for call in calls if call.ended_s < begin_s]

    def changes(self, breaker: str) -> Iterator[tuple[float, str]]:
        """When any server's breaker was first seen in another state than before, and in which."""
        states: dict[int, str] = {}
        for sample in self.samples:
            state = sample.breaker(breaker)
            if state != states.get(sample.server, "closed"):
                yield sample.at_s, state
            states[sample.server] = state

    def fired(self, alert: str) -> list[tuple[float, float | None]]:
        """From when to when the alert fired, each time; None: it did to the end."""
        spans: list[tuple[float, float | None]] = []
        for seen in self.alerts:
            fires = bool(spans) and spans[-1][1] is None
            if alert in seen.firing and not fires:
                spans.append((seen.at_s, None))
            elif alert not in seen.firing and fires:
                spans[-1] = (spans[-1][0], seen.at_s)
        return spans

    def counted(self, name: str, begin_s: float, end_s: float) -> float:
        """By how much a counter grew, all servers together; a restarted one begins at 0 again.

        Args:
            name: `attempts`, `retries`, `published` or `refused_events`.
            begin_s: From then on.
            end_s: Until then.
        """
        total = 0.0
        last: dict[int, float] = {}
        for sample in self.samples:
            value: float = getattr(sample, name)
            before = last.get(sample.server, 0.0)
            if begin_s <= sample.at_s <= end_s:
                total += value - before if value >= before else value
            last[sample.server] = value
        return total


def percentile(values: Sequence[float], percent: int) -> float:
    """0 for no values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
