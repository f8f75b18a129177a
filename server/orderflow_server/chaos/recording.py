"""What happened in one run of a scenario. All times are seconds since its load began."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
    """

    at_s: float
    server: int
    gateway_breaker: str
    store_breaker: str
    attempts: float
    retries: float
    limit: float
    in_flight: float

    def breaker(self, name: str) -> str:
        """The state of `gateway` or `store`."""
        return self.gateway_breaker if name == "gateway" else self.store_breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSeen:
    """A fault as it really was: from when it was done to when all was mended."""

    what: str
    begin_s: float
    end_s: float


@dataclass(slots=True)
class Recording:
    """What is written down while a scenario runs.

    Attributes:
        faults: In the order in which they ended.
        ended_s: When the last order had settled, or nobody waited for it any more.
        placed: How many orders were acknowledged.
        audit: The orders against the gateway's ledger. None: not done yet.
    """

    calls: list[Call] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[FaultSeen] = field(default_factory=list)
    ended_s: float = 0.0
    placed: int = 0
    audit: Audit | None = None

    @property
    def trouble_s(self) -> tuple[float, float]:
        """From the beginning of the first fault to the end of the last."""
        return (
            min(fault.begin_s for fault in self.faults),
            max(fault.end_s for fault in self.faults),
        )

    def latencies_s(self) -> list[float]:
        """Of the calls that succeeded."""
        return [call.took_s for call in self.calls if call.outcome == OK]

    def changes(self, breaker: str) -> Iterator[tuple[float, str]]:
        """When any server's breaker was first seen in another state than before, and in which."""
        states: dict[int, str] = {}
        for sample in self.samples:
            state = sample.breaker(breaker)
            if state != states.get(sample.server, "closed"):
                yield sample.at_s, state
            states[sample.server] = state

    def counted(self, name: str, begin_s: float, end_s: float) -> float:
        """By how much a counter grew, all servers together; a restarted one begins at 0 again.

        Args:
            name: `attempts` or `retries`.
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
