from __future__ import annotations

import logging

import grpc
import pytest

from orderflow_client.telemetry.call_log import level_of

LEVELS = {
    "OK": logging.DEBUG,
    "CANCELLED": logging.DEBUG,
    "INVALID_ARGUMENT": logging.INFO,
    "NOT_FOUND": logging.INFO,
    "ALREADY_EXISTS": logging.INFO,
    "PERMISSION_DENIED": logging.INFO,
    "FAILED_PRECONDITION": logging.INFO,
    "OUT_OF_RANGE": logging.INFO,
    "UNIMPLEMENTED": logging.INFO,
    "UNAUTHENTICATED": logging.INFO,
    "UNAVAILABLE": logging.WARNING,
    "DEADLINE_EXCEEDED": logging.WARNING,
    "RESOURCE_EXHAUSTED": logging.WARNING,
    "ABORTED": logging.WARNING,
    "UNKNOWN": logging.ERROR,
    "INTERNAL": logging.ERROR,
    "DATA_LOSS": logging.ERROR,
}


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
def test_each_status_has_its_level(code: grpc.StatusCode) -> None:
    assert level_of(code, retried=False) == LEVELS[code.name]


def test_a_success_after_retries_is_unusual() -> None:
    assert level_of(grpc.StatusCode.OK, retried=True) == logging.WARNING


def test_retries_change_no_other_level() -> None:
    assert level_of(grpc.StatusCode.NOT_FOUND, retried=True) == logging.INFO
    assert level_of(grpc.StatusCode.INTERNAL, retried=True) == logging.ERROR
