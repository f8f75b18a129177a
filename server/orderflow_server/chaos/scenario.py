"""A scenario: what breaks when, under which load, and what is expected of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from orderflow_server.chaos.contained import NoneBelieved
from orderflow_server.chaos.expectations import AlertFires, EventsAgree, Expectation, Verdict
from orderflow_server.chaos.faults import Fault
from orderflow_server.chaos.load import OddOrders
from orderflow_server.chaos.others import EventsWithin, FoundAtOnce, Settlement
from orderflow_server.chaos.recording import Recording
from orderflow_server.payments.simulator.faults import Faults

USUAL = Faults(latency_median_s=0.005, latency_sigma=0.5, decline_rate=0.05)
"""A gateway at which nothing is wrong: some payments are declined."""
JITTER_S = 0.5
"""How much later than planned a fault may begin: seeds should differ in more than the orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A fault and when it is there.

    Attributes:
        what: What breaks, in a few words.
        begin_s, end_s: Since the load began.
        fault: Broken within it, mended after it. None: only the load changes.
        load: By how much the load is multiplied meanwhile.
        odd: Orders that are placed as soon as the fault is there.
    """

    what: str
    begin_s: float
    end_s: float
    fault: Fault | None = None
    load: float = 1.0
    odd: OddOrders | None = None

    def later(self, by_s: float) -> Window:
        return replace(self, begin_s=self.begin_s + by_s, end_s=self.end_s + by_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """See the module.

    Attributes:
        name: As it is asked for.
        shows: What it shows, one sentence.
        duration_s: How long orders are placed; after that they may settle.
        rate: Orders a second.
        windows: The faults, in the order of their beginnings.
        expectations: All must be met.
        servers: How many, over one database.
        gateway: What is usual at the gateway.
        settings: Of the servers, by the names of their variables in the environment.
        through_proxy: The servers reach the database through a proxy, which faults may use.
        with_standby: A second PostgreSQL follows the first, and the servers know both.
        sqlite: The database is a file.
        clocks_ahead_s: How much the wall clocks of servers are ahead, by the servers' numbers.
    """

    name: str
    shows: str
    duration_s: float
    windows: Sequence[Window]
    expectations: Sequence[Expectation]
    rate: float = 60.0
    servers: int = 1
    gateway: Faults = USUAL
    settings: Mapping[str, str] = field(default_factory=dict)
    through_proxy: bool = False
    with_standby: bool = False
    sqlite: bool = False
    clocks_ahead_s: Mapping[int, float] = field(default_factory=dict)

    def schedule(self, random: Random) -> list[Window]:
        """The windows of one run."""
        return [window.later(random.uniform(0, JITTER_S)) for window in self.windows]

    @property
    def alerts(self) -> frozenset[str]:
        """Those that are expected; if any, Prometheus is to look at the servers."""
        return frozenset(
            expected.alert for expected in self.expectations if isinstance(expected, AlertFires)
        )

    @property
    def expects_events(self) -> bool:
        """The servers are to publish events."""
        return self._expects(EventsAgree, EventsWithin)

    @property
    def follows_orders(self) -> bool:
        """Each order is watched until it is settled."""
        return self._expects(Settlement)

    @property
    def listens(self) -> bool:
        """The events are received while the scenario runs."""
        return self._expects(EventsWithin)

    @property
    def reads_back(self) -> bool:
        """Each order is read as soon as it is acknowledged."""
        return self._expects(FoundAtOnce)

    @property
    def expects_lies(self) -> bool:
        """The gateway's wrong answers are looked at, and what was parked is released at the end."""
        return self._expects(NoneBelieved)

    def _expects(self, *kinds: type[object]) -> bool:
        return any(isinstance(expected, kinds) for expected in self.expectations)

    def judge(self, recording: Recording) -> list[Verdict]:
        return [
            verdict for expectation in self.expectations for verdict in expectation.judge(recording)
        ]


def load_at(windows: Sequence[Window], at_s: float) -> float:
    """By how much the load is multiplied at a time."""
    factor = 1.0
    for window in windows:
        if window.begin_s <= at_s < window.end_s:
            factor *= window.load
    return factor
