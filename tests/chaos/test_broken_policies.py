"""A scenario that passes without the policy that it is about would prove nothing."""

from __future__ import annotations

import pytest

from orderflow_server.chaos.run import run
from orderflow_server.chaos.scenarios import SCENARIOS

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("without", "scenario", "noticed"),
    [
        ("breaker", "gateway-down", "the gateway's breaker opened"),
        ("budget", "gateway-errors", "attempts at the gateway for each first one"),
        ("idempotency", "answers-lost", "orders charged twice"),
    ],
)
async def test_a_scenario_notices_that_its_policy_is_missing(
    without: str, scenario: str, noticed: str
) -> None:
    outcome = await run(SCENARIOS[scenario], seed=1, without=without)
    assert noticed in {verdict.what for verdict in outcome.verdicts if not verdict.passed}
