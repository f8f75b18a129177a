from __future__ import annotations

from io import StringIO

from rich.console import Console

from orderflow_server.chaos.recording import OK, AlertsSeen, Call, FaultSeen, Recording, Sample
from orderflow_server.chaos.run import Progress
from orderflow_server.chaos.scenarios import SCENARIOS
from orderflow_server.chaos.view import view


def shown(progress: Progress) -> str:
    output = StringIO()
    Console(width=120, file=output).print(view(SCENARIOS["gateway-down"], progress))
    return output.getvalue()


def test_a_run_that_has_not_begun_can_be_looked_at() -> None:
    text = shown(Progress(recording=Recording(), phase="starting", clock=lambda: 0.0, broken={}))
    assert "gateway-down  starting, 0 s of 45 s" in text


def test_a_run_shows_each_series_each_server_and_what_is_broken() -> None:
    recording = Recording(
        calls=[Call(begun_s=at + 0.1, took_s=0.25, outcome=OK) for at in (0, 1, 1, 2, 2, 2)],
        samples=[
            Sample(
                at_s=2.5,
                server=1,
                gateway_breaker="open",
                store_breaker="closed",
                attempts=9.0,
                retries=2.0,
                limit=40.0,
                in_flight=7.0,
            )
        ],
        faults=[FaultSeen(what="an earlier one", begin_s=0.5, end_s=1.0)],
        alerts=[AlertsSeen(at_s=2.5, firing=frozenset({"BreakerOpen"}))],
    )
    text = shown(
        Progress(
            recording=recording, phase="placing", clock=lambda: 3.2, broken={"gateway down": 2.5}
        )
    )
    assert "placing, 3 s of 45 s  gateway down" in text
    assert "▃▅█" in text
    assert "gateway open, store closed, 7 in flight of 40" in text
    assert "BreakerOpen" in text
    assert "250" in text
