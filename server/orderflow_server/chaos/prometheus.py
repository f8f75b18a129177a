"""A Prometheus with the project's own rules, in a hurry: it tells which alerts fire."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from orderflow_server.chaos.hurry import SPEED, hurried, shorter
from orderflow_server.chaos.processes import CHECKOUT, CannotStart, Process, program
from orderflow_server.chaos.recording import AlertsSeen, Recording
from orderflow_server.free_port import free_port

RULES = CHECKOUT / "deploy" / "prometheus" / "rules"
INTERVAL_S = 0.25
"""How often it is asked: as often as it evaluates the rules, whose 15 s are that in a hurry."""
_SCRAPE = "500ms"
"""Longer than 15 s in a hurry are: a server that is at work takes its time to answer."""
_START_TIMEOUT_S = 30.0
_POLL_S = 0.05
_ASK_TIMEOUT_S = 2.0


class Prometheus:
    """One that looks at the servers.

    Args:
        url: Where it answers.
        process: It.
        targets: How many servers it looks at.
    """

    def __init__(self, url: str, process: Process, *, targets: int) -> None:
        self._url = url
        self._process = process
        self._targets = targets

    async def until_all_is_well(self) -> None:
        """Returns when it has seen all servers and nothing fires. It looks 5 s after its start.

        Raises:
            CannotStart: It ends, or does not get that far in 30 s.
        """
        try:
            async with self._http() as http, asyncio.timeout(_START_TIMEOUT_S):
                while await self._up(http) < self._targets or await self._firing(http):
                    if not self._process.runs:
                        raise CannotStart(f"prometheus ended: {self._process.last_words()}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise CannotStart(
                f"prometheus does not see the servers: {self._process.last_words()}"
            ) from error

    async def watch(self, recording: Recording, *, clock: Callable[[], float]) -> None:
        """Writes down which alerts fire, again and again, until it is cancelled."""
        async with self._http() as http:
            while True:
                firing = await self._firing(http)
                if firing is not None:
                    recording.alerts.append(AlertsSeen(at_s=clock(), firing=firing))
                await asyncio.sleep(INTERVAL_S)

    def _http(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S))

    async def _up(self, http: aiohttp.ClientSession) -> int:
        """How many servers it saw when it looked last."""
        answer = await self._ask(http, "query?query=up==1")
        return 0 if answer is None else len(answer["result"])

    async def _firing(self, http: aiohttp.ClientSession) -> frozenset[str] | None:
        """None: it does not answer."""
        answer = await self._ask(http, "alerts")
        if answer is None:
            return None
        alerts = answer["alerts"]
        return frozenset(
            alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"
        )

    async def _ask(self, http: aiohttp.ClientSession, what: str) -> Any:
        """None: it does not answer, because it is busy or not ready yet."""
        try:
            async with http.get(f"{self._url}/api/v1/{what}") as response:
                return (await response.json())["data"] if response.ok else None
        except (aiohttp.ClientError, TimeoutError):
            return None


def why_not() -> str:
    """What is missing for the alerts to be checked. Empty: nothing."""
    if program("prometheus") is None:
        return "no prometheus"
    if not RULES.is_dir():
        return "no deploy/prometheus here"
    return ""


@asynccontextmanager
async def prometheus(directory: Path, targets: Sequence[str]) -> AsyncIterator[Prometheus]:
    """Started when this yields, and not ready yet.

    Args:
        directory: For its configuration, its data and its log; made.
        targets: The ops addresses of the servers that it looks at, in its job `orderflow`.

    Raises:
        CannotStart: It is not installed.
    """
    command = program("prometheus")
    if command is None:
        raise CannotStart("there is no prometheus in the PATH nor in .cache/bin")
    address = f"127.0.0.1:{free_port()}"
    its = Process(
        [
            command,
            f"--config.file={_configuration(directory, targets)}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
            # What has not been seen for 5 minutes is gone; these are shorter, too.
            f"--query.lookback-delta={shorter('5m', SPEED)}",
            "--log.level=warn",
        ],
        log=directory / "log",
        # One core is enough for it: the servers need the others.
        environment={**os.environ, "GOMAXPROCS": "1"},
    )
    await its.start()
    try:
        yield Prometheus(f"http://{address}", its, targets=len(targets))
    finally:
        await its.kill()  # Nobody reads its data again.


def _configuration(directory: Path, targets: Sequence[str]) -> Path:
    """The path of what it reads, written with the hurried rules beside it."""
    directory.mkdir()
    rules = []
    for path in sorted(RULES.glob("*.yaml")):
        rules.append(path.name)
        (directory / path.name).write_text(
            yaml.safe_dump(hurried(yaml.safe_load(path.read_text())))
        )
    configuration = directory / "prometheus.yml"
    configuration.write_text(
        yaml.safe_dump(
            {
                "global": {
                    "scrape_interval": _SCRAPE,
                    "scrape_timeout": _SCRAPE,
                    "evaluation_interval": shorter("15s", SPEED),
                },
                "rule_files": rules,
                "scrape_configs": [
                    {"job_name": "orderflow", "static_configs": [{"targets": [*targets]}]}
                ],
            }
        )
    )
    return configuration
