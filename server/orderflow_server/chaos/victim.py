"""The server of a scenario.

`python -m orderflow_server.chaos.victim [--without POLICY] [--clock-ahead SECONDS] serve ...`

It is the server that people run, and four things are done to it that they could not want. SIGUSR1
blocks its event loop for a second, as a call that should have been in a thread would. It looks for
what waits twenty times as often, because the alerts on that are in a hurry. Its wall clock can be
ahead of the right time. And one policy can be taken from it, to see that a scenario notices: a
scenario that passes without the policy that it is about proves nothing. It is done here, so that
the service has no setting for it.
"""

from __future__ import annotations

import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from orderflow_client.resilience import breaker, retry
from orderflow_server import app, cli, instruments
from orderflow_server.orders.order import Order
from orderflow_server.telemetry.backlog_metrics import BacklogMetrics

BLOCKED_S = 1.0
BACKLOG_INTERVAL_S = 0.25
"""Instead of 5 s; see `hurry`."""


def _without_breaker() -> None:
    never = lambda _: False  # noqa: E731  a method
    breaker.Breaker._too_many_failed = never  # type: ignore[method-assign]  # noqa: SLF001  sabotage


def _without_budget() -> None:
    always = property(lambda _: True)
    retry.RetryBudget.allows_retry = always  # type: ignore[assignment, method-assign]  # sabotage


def _without_idempotency() -> None:
    fresh = property(lambda _: f"order-{uuid.uuid4()}")
    Order.payment_key = fresh  # type: ignore[assignment, method-assign]  # sabotage


WITHOUT: Mapping[str, Callable[[], None]] = {
    "breaker": _without_breaker,
    "budget": _without_budget,
    "idempotency": _without_idempotency,
}
"""What can be taken from a server: no breaker opens; failures cost no budget; each attempt to pay
has an idempotency key of its own."""


def _set_clock_ahead(by: timedelta) -> None:
    right = app._utc_now  # noqa: SLF001  fails when it is gone, as it should
    app._utc_now = lambda: right() + by  # noqa: SLF001  sabotage


def main() -> None:
    # Python runs it between two steps of the main thread, which is the event loop's.
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(BLOCKED_S))
    often = partial(BacklogMetrics, interval_s=BACKLOG_INTERVAL_S)
    instruments.BacklogMetrics = often  # type: ignore[assignment, attr-defined]  # see the module
    if sys.argv[1:2] == ["--without"]:
        WITHOUT[sys.argv[2]]()
        del sys.argv[1:3]
    if sys.argv[1:2] == ["--clock-ahead"]:
        _set_clock_ahead(timedelta(seconds=float(sys.argv[2])))
        del sys.argv[1:3]
    cli.main()


if __name__ == "__main__":
    main()
