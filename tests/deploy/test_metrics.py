"""What deploy/ and the documentation speak of is what the running service exports."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from deploy.queries import ROOT, panel_queries, recorded, rule_queries
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from orderflow_client import OrderClient, item, money
from processes import server_process

OPERATIONS = ROOT / "docs" / "operations.md"


@pytest.fixture
async def exported(tmp_path: Path) -> AsyncIterator[list[Metric]]:
    """What a service exports that has settled an order."""
    async with (
        server_process(tmp_path) as server,
        OrderClient(server.address) as client,
        aiohttp.ClientSession() as http,
    ):
        await client.create_order(
            customer_id="alice",
            items=[item("BOOK-1", 1, money("12.50", "EUR"))],
            payment_token="tok_visa",
        )
        async with http.get(f"http://{server.ops_address}/metrics") as response:
            yield list(text_string_to_metric_families(await response.text()))


# They have no series before the first of them happens: which methods are retried is not known.
WITHOUT_SERIES = {"orderflow_retries_total", "orderflow_hedges_total"}


async def test_queries_use_metrics_that_there_are(exported: list[Metric]) -> None:
    samples = {sample.name for family in exported for sample in family.samples}
    known = samples | WITHOUT_SERIES | recorded()
    unknown = {
        query.where: query.metrics - known
        for query in [*panel_queries(), *rule_queries()]
        if not query.metrics <= known
    }
    assert unknown == {}


async def test_the_documentation_lists_the_metrics_that_there_are(exported: list[Metric]) -> None:
    ours = {family.name for family in exported if re.match("grpc_|orderflow_", family.name)}
    listed = re.findall(r"^\| `((?:grpc|orderflow)_\w+)`", OPERATIONS.read_text(), re.MULTILINE)
    assert {re.sub("_(total|info)$", "", name) for name in listed} == {
        re.sub("_(total|info)$", "", name) for name in ours
    }
    assert len(listed) == len(set(listed))
