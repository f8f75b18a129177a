"""A real Prometheus scrapes the running service, with the project's rules, for its dashboards."""

from __future__ import annotations

import asyncio
import math
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from deploy.outside import program, started, until_answered
from deploy.queries import DEPLOY, RULES, Query, panel_queries
from deploy.queries import rules as all_rules

from orderflow_client import Conflict, OrderClient, item, money
from processes import free_port, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# The server hedges nothing of its own, and nothing here is refused.
MAY_BE_EMPTY = {"resilience: Hedges"}
TRIES = 80
DURATION = "service: Duration, 99th percentile"
VARIABLES = {"$__rate_interval": "10s", "$job": ".*", "$instance": ".*"}


def complete(query: Query) -> str:
    """The query as Grafana sends it."""
    expression = query.expression
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


@dataclass(frozen=True)
class Prometheus:
    url: str
    http: aiohttp.ClientSession

    async def get(self, path: str, **parameters: str) -> Any:
        async with self.http.get(f"{self.url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
            assert answer["status"] == "success", answer
            return answer["data"]

    async def ask(self, query: Query) -> list[float]:
        """The numbers that it has, now."""
        result = (await self.get("query", query=complete(query)))["result"]
        values = [float(series["value"][1]) for series in result]
        return [value for value in values if not math.isnan(value)]


def hurried(directory: Path, target: str) -> Path:
    """The project's configuration and rules, but for how often and whom it asks."""
    for path in RULES:
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (directory / path.name).write_text(yaml.safe_dump(rules))
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    configuration["rule_files"] = [path.name for path in RULES]
    [service] = [
        each for each in configuration["scrape_configs"] if each["job_name"] == "orderflow"
    ]
    service["static_configs"] = [{"targets": [target]}]
    configuration["scrape_configs"] = [service]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    return path


async def work(client: OrderClient) -> None:
    """Orders are placed, read, listed, watched and cancelled, again and again."""
    while True:
        order = await client.create_order(
            customer_id="alice",
            items=[item("BOOK-1", 1, money("12.50", "EUR"))],
            payment_token="tok_visa",
        )
        await client.get_order(order.id)
        async for _ in client.list_orders(page_size=1):
            break
        async for _ in client.watch_order(order.id):
            break
        # One that was declined cannot be cancelled.
        with suppress(Conflict):
            await client.cancel_order(order.id)


@pytest.fixture
async def prometheus(tmp_path: Path) -> AsyncIterator[Prometheus]:
    """Looks at a service at work, whose gateway fails and declines now and then."""
    command = program("prometheus", "Debian has it as a package")
    gateway_port = free_port()
    web = f"127.0.0.1:{free_port()}"
    async with (
        started(
            *(sys.executable, "-m", "orderflow_server", "gateway", "--port", str(gateway_port)),
            *("--error-rate", "0.05", "--decline-rate", "0.2"),
            log=tmp_path / "gateway.log",
        ),
        server_process(
            tmp_path,
            arguments=["--gateway", f"127.0.0.1:{gateway_port}"],
            environment={"OTEL_TRACES_SAMPLER": "always_on"},
        ) as server,
        started(
            command,
            f"--config.file={hurried(tmp_path, server.ops_address)}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address={web}",
            "--enable-feature=exemplar-storage",
            log=tmp_path / "prometheus.log",
        ) as process,
        OrderClient(server.address) as client,
        aiohttp.ClientSession() as http,
    ):
        await until_answered(f"http://{web}/-/ready", process)
        working = asyncio.create_task(work(client))
        try:
            yield Prometheus(f"http://{web}", http)
            assert not working.done(), working.exception()
        finally:
            working.cancel()
            await asyncio.wait({working})


async def test_it_answers_every_panel_and_every_rule(prometheus: Prometheus) -> None:
    queries = panel_queries()
    unanswered = {query.where for query in queries} - MAY_BE_EMPTY
    for _ in range(TRIES):
        unanswered &= {query.where for query in queries if not await prometheus.ask(query)}
        if not unanswered:
            break
        await asyncio.sleep(0.5)
    assert unanswered == set()

    groups = (await prometheus.get("rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    assert len(rules) == len(list(all_rules()))
    # The service is well, so none of them complains.
    assert (await prometheus.get("alerts"))["alerts"] == []


async def test_a_panel_leads_to_the_traces_of_single_calls(prometheus: Prometheus) -> None:
    [query] = [
        each for each in panel_queries() if each.where == "service: Duration, 99th percentile"
    ]
    traces: set[str] = set()
    for _ in range(TRIES):
        now = time.time()
        series = await prometheus.get(
            "query_exemplars", query=complete(query), start=str(now - 60), end=str(now)
        )
        traces = {each["labels"]["trace_id"] for one in series for each in one["exemplars"]}
        if traces:
            break
        await asyncio.sleep(0.5)
    assert traces
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)
