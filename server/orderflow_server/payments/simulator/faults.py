"""What goes wrong at the simulated gateway: how often, and to which call."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from random import Random

from orderflow_server.orders.value import Value

MAX_LATENCY_MEDIAN_S = 60.0
MAX_LATENCY_SIGMA = 3.0
REFUSE_CODES = frozenset(
    {
        "ABORTED",
        "ALREADY_EXISTS",
        "CANCELLED",
        "DATA_LOSS",
        "DEADLINE_EXCEEDED",
        "FAILED_PRECONDITION",
        "INTERNAL",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "UNAUTHENTICATED",
        "UNAVAILABLE",
        "UNIMPLEMENTED",
        "UNKNOWN",
    }
)
"""The names of gRPC's status codes, without OK. Not from grpc, which is slow to import."""


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
        hanging_token: A Charge with this payment token never answers and moves no money; all other
            calls are not affected. Empty: no token.
        lie_rate: How many of the answers are wrong, see `Lie`, while the ledger has the truth.
        refuse_code: Every call is refused with this status, the name of a gRPC status code other
            than OK, and does nothing. Empty: none is.

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
    hanging_token: str = ""
    lie_rate: float = 0.0
    refuse_code: str = ""

    def __post_init__(self) -> None:
        for name, most in (
            ("error_rate", 1.0),
            ("timeout_rate", 1.0),
            ("lost_answer_rate", 1.0),
            ("decline_rate", 1.0),
            ("latency_median_s", MAX_LATENCY_MEDIAN_S),
            ("latency_sigma", MAX_LATENCY_SIGMA),
            ("lie_rate", 1.0),
        ):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be between 0 and {most:g}")
        if self.refuse_code and self.refuse_code not in REFUSE_CODES:
            raise ValueError(f"refuse_code must be one of {', '.join(sorted(REFUSE_CODES))}")


class Ending(enum.Enum):
    """How a call ends, as far as the faults decide it."""

    ANSWER = "ANSWER"
    OUTAGE = "OUTAGE"
    REFUSED = "REFUSED"
    ERROR = "ERROR"
    TIMEOUT = "TIMEOUT"
    LOST_ANSWER = "LOST_ANSWER"


class Lie(enum.Enum):
    """Which part of an answer is wrong."""

    OTHER_KEY = "OTHER_KEY"
    OTHER_AMOUNT = "OTHER_AMOUNT"
    OTHER_CURRENCY = "OTHER_CURRENCY"
    OTHER_STATE = "OTHER_STATE"
    UNPARSEABLE = "UNPARSEABLE"
    INVALID_TEXT = "INVALID_TEXT"


_LIES = tuple(Lie)


class Fate(Value, frozen=True, gc=False, kw_only=True):
    """What the faults have in store for one call.

    Attributes:
        latency_s: How long to wait before anything is done.
        declines: A new payment is declined.
        lie: The wrong part of the answer. None: the answer is right.
        refuse_code: The name of the status when the ending is REFUSED, else empty.
    """

    ending: Ending
    latency_s: float
    declines: bool
    lie: Lie | None = None
    refuse_code: str = ""


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

    def draw(self, payment_token: str = "") -> Fate:
        """Return the fate of the call that begins now.

        Args:
            payment_token: Of a Charge. Empty: the call is another.
        """
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
        lies = draw() < faults.lie_rate
        lie = _LIES[int(draw() * len(_LIES))]
        if faults.outage:
            ending = Ending.OUTAGE
        elif faults.refuse_code:
            ending = Ending.REFUSED
        elif payment_token and payment_token == faults.hanging_token:
            ending = Ending.TIMEOUT
        elif error:
            ending = Ending.ERROR
        elif timeout:
            ending = Ending.TIMEOUT
        elif lost_answer:
            ending = Ending.LOST_ANSWER
        else:
            ending = Ending.ANSWER
        return Fate(
            ending=ending,
            latency_s=latency_s,
            declines=declines,
            lie=lie if lies else None,
            refuse_code=faults.refuse_code if ending is Ending.REFUSED else "",
        )
