"""How many calls may run at once: the limits that admission keeps to."""

from __future__ import annotations

from orderflow_client.resilience.limiter import Limiter, QueueOptions
from orderflow_client.resilience.limits import AdaptiveLimit, AdaptiveLimitOptions, FixedLimit
from orderflow_server.instruments import Instruments
from orderflow_server.rpc.server import Admission
from orderflow_server.settings import Settings

_MIN_IN_FLIGHT = 8
_INITIAL_IN_FLIGHT = 200
_MAX_WAITING = 8
_TOLERATED_QUEUE_S = 0.02


def admission_limits(settings: Settings, instruments: Instruments) -> Admission:
    """The limits, which the metrics show."""
    unary = Limiter(
        AdaptiveLimit(
            AdaptiveLimitOptions(
                min_limit=_MIN_IN_FLIGHT,
                initial_limit=min(_INITIAL_IN_FLIGHT, settings.max_in_flight),
                max_limit=settings.max_in_flight,
                window_s=0.1,
                slack_s=_TOLERATED_QUEUE_S,
            )
        ),
        name="calls",
        queue=QueueOptions(max_waiting=_MAX_WAITING),
        listeners=[instruments.policy_event],
    )
    streams = Limiter(
        FixedLimit(settings.max_streams), name="streams", listeners=[instruments.policy_event]
    )
    instruments.policies.watch_limiter(unary, "calls")
    instruments.policies.watch_limiter(streams, "streams")
    return Admission(unary=unary, streams=streams)
