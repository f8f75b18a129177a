"""Whether other machines can reach an address, and what the settings make of that."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orderflow_server.security.exposure import only_this_machine
from orderflow_server.settings import Settings


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_for_this_machine(host: str) -> None:
    assert only_this_machine(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.1", "orders.example", "localhost.example", ""],
)
def test_all_else_may_be_reached(host: str) -> None:
    assert not only_this_machine(host)


TLS = {"tls_certificate": "c.pem", "tls_key": "k.pem"}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"address": "[::1]:1"},
        {"address": "0.0.0.0:1", "insecure": True},
        {"address": "0.0.0.0:1", **TLS},
        {"address": "[::]:1", **TLS, "tls_client_ca": "ca.pem"},
    ],
)
def test_what_is_safe_or_said_aloud_is_taken(values: dict[str, Any]) -> None:
    Settings(**values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"address": "0.0.0.0:1"}, ["address", "tls_certificate", "tls_key", "insecure"]),
        ({"address": "orders.example:1"}, ["address", "insecure"]),
        ({"tls_key": "k.pem"}, ["tls_certificate"]),
        ({"tls_certificate": "c.pem"}, ["tls_key"]),
        ({"tls_client_ca": "ca.pem"}, ["tls_certificate"]),
        ({"token_keys": "a", "token_secret": "b"}, ["token_keys", "token_secret"]),
    ],
)
def test_what_is_not_is_refused_with_the_names_of_the_settings(
    values: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    assert all(name in str(caught.value) for name in named)
