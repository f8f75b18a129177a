"""Shed calls are counted in the log, not listed."""

from __future__ import annotations

from structlog.testing import capture_logs

from orderflow_client.resilience.events import CallShed, Criticality, LimitChanged, ShedReason
from orderflow_server.telemetry.policy_log import ShedLog

SHED = CallShed(
    name="calls",
    criticality=Criticality.DEFAULT,
    reason=ShedReason.QUEUE_FULL,
    retry_after_s=0.25,
)


def test_one_line_a_second_with_the_number_since_the_last() -> None:
    now_s = 0.0
    listener = ShedLog(clock=lambda: now_s)
    with capture_logs() as logs:
        for _ in range(5):
            listener(SHED)
        now_s = 1.0
        listener(SHED)
        now_s = 1.5
        listener(SHED)
    assert [line["calls"] for line in logs] == [1, 5]
    assert logs[0]["log_level"] == "warning"


def test_it_listens_to_nothing_else() -> None:
    with capture_logs() as logs:
        ShedLog()(LimitChanged(name="calls", old=10, new=9))
    assert logs == []
