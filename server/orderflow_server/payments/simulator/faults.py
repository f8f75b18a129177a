"""What goes wrong at the simulated gateway: how often, and to which call."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from random import Random

from orderflow_server.orders.value import Value

MAX_LATENCY_MEDIAN_S = 60.0
MAX_LATENCY_SIGMA = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, and how often. As made without arguments, nothing does.

    Attributes:
        outage: Every call fails at once.
        error_rate: How many of the calls fail before anything is done, 0 to 1, as all rates.
        timeout_rate: How many of the calls never answer, and do nothing.
        lost_answer_rate: How many of the calls do what they were asked and then never answer.
        decline_rate: How many of the new payments are declined.
        latency_median_s: How long an answer takes: lognormal with this median, 0 to 60 s.
        latency_sigma: The standard deviation of the latency's logarithm, 0 to 3; 0: always the
            median. At 0.5 the 99th percentile is 3.2 times the median.

    Raises:
        ValueError: When one is out of its range.
    """

    outage: bool = False
    error_rate: float = 0.0
    timeout_rate: float = 0.0
    lost_answer_rate: float = 0.0
    decline_rate: float = 0.0
    latency_median_s: float = 0.0
    latency_sigma: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (
            ("error_rate", 1.0),
            ("timeout_rate", 1.0),
            ("lost_answer_rate", 1.0),
            ("decline_rate", 1.0),
            ("latency_median_s", MAX_LATENCY_MEDIAN_S),
            ("latency_sigma", MAX_LATENCY_SIGMA),
        ):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be between 0 and {most:g}")


class Ending(enum.Enum):
    """How a call ends, as far as the faults decide it."""

    ANSWER = "ANSWER"
    OUTAGE = "OUTAGE"
    ERROR = "ERROR"
    TIMEOUT = "TIMEOUT"
    LOST_ANSWER = "LOST_ANSWER"


class Fate(Value, frozen=True, gc=False, kw_only=True):
    """What the faults have in store for one call.

    Attributes:
        latency_s: How long to wait before anything is done.
        declines: A new payment is declined.
    """

    ending: Ending
    latency_s: float
    declines: bool


class FaultInjector:
    """Draws the fate of each call.

    The n-th call draws the same numbers whatever the faults are and whatever the calls
    before it did, so one seed and one order of calls give one history.

    Attributes:
        faults: Those in force; what is set here holds for the calls that begin later.
    """

    def __init__(self, random: Random, faults: Faults) -> None:
        self._random = random
        self.faults = faults

    def draw(self) -> Fate:
        faults = self.faults
        draw = self._random.random
        # In the order that the contract gives. A draw is below a rate of 1 always, of 0 never.
        error = draw() < faults.error_rate
        timeout = draw() < faults.timeout_rate
        lost_answer = draw() < faults.lost_answer_rate
        latency_s = faults.latency_median_s * math.exp(
            faults.latency_sigma * self._random.gauss(0.0, 1.0)
        )
        declines = draw() < faults.decline_rate
        if faults.outage:
            ending = Ending.OUTAGE
        elif error:
            ending = Ending.ERROR
        elif timeout:
            ending = Ending.TIMEOUT
        elif lost_answer:
            ending = Ending.LOST_ANSWER
        else:
            ending = Ending.ANSWER
        return Fate(ending=ending, latency_s=latency_s, declines=declines)
