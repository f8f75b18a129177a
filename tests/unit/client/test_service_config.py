from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from orderflow_client.cli import app
from orderflow_client.client import ORDER_CONTRACT
from orderflow_client.service_config import service_config

GET = "/orderflow.v1.OrderService/GetOrder"
WATCH = "/orderflow.v1.OrderService/WatchOrder"


def test_says_what_the_contract_says() -> None:
    contract = {GET: ORDER_CONTRACT[GET], WATCH: ORDER_CONTRACT[WATCH]}
    assert service_config(contract, health_service="orderflow.v1.OrderService") == {
        "loadBalancingConfig": [{"round_robin": {}}],
        "connectionScaling": {"maxConnectionsPerSubchannel": 10},
        "healthCheckConfig": {"serviceName": "orderflow.v1.OrderService"},
        "methodConfig": [
            {
                "name": [{"service": "orderflow.v1.OrderService", "method": "GetOrder"}],
                "timeout": "2s",
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2.0,
                    "retryableStatusCodes": ["DEADLINE_EXCEEDED", "UNAVAILABLE"],
                },
            },
            {
                "name": [{"service": "orderflow.v1.OrderService", "method": "WatchOrder"}],
                "timeout": "3600s",
            },
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }


def test_promises_no_more_attempts_than_grpc_makes() -> None:
    policy = ORDER_CONTRACT[GET].retry
    assert policy is not None
    eager = dataclasses.replace(policy, max_attempts=9)
    config = service_config({GET: dataclasses.replace(ORDER_CONTRACT[GET], retry=eager)})
    assert config["methodConfig"][0]["retryPolicy"]["maxAttempts"] == 5


def test_a_method_without_a_policy_is_named_and_nothing_more() -> None:
    bare = dataclasses.replace(ORDER_CONTRACT[GET], timeout_s=None, retry=None)
    (config,) = service_config({GET: bare})["methodConfig"]
    assert config.keys() == {"name"}


ORDERS = "orderflow.v1.OrderService"


@pytest.mark.parametrize(
    ("arguments", "service", "methods", "health"),
    [
        ((), ORDERS, 5, {"serviceName": ORDERS}),
        (("--service", ORDERS), ORDERS, 5, {"serviceName": ORDERS}),
        (("--service", "payments"), "orderflow.payments.v1.PaymentGateway", 4, None),
    ],
)
def test_the_command_prints_json(
    arguments: tuple[str, ...], service: str, methods: int, health: dict[str, str] | None
) -> None:
    ended = CliRunner().invoke(app, ["service-config", *arguments])
    assert ended.exit_code == 0
    printed = json.loads(ended.stdout)
    assert printed.get("healthCheckConfig") == health
    names = [config["name"][0] for config in printed["methodConfig"]]
    assert [name["service"] for name in names] == [service] * methods
    assert len({name["method"] for name in names}) == methods
