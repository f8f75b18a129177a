from __future__ import annotations

import logging

import grpc
import pytest

from orderflow_client.status import BREAKER_OPEN
from orderflow_client.telemetry.call_log import level_of
from orderflow_client.telemetry.ending import OK, Ending

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
    assert level_of(Ending(code), retried=False, sent=True) == LEVELS[code.name]


def test_a_success_after_retries_is_unusual() -> None:
    assert level_of(OK, retried=True, sent=True) == logging.WARNING


def test_retries_change_no_other_level() -> None:
    not_found, internal = Ending(grpc.StatusCode.NOT_FOUND), Ending(grpc.StatusCode.INTERNAL)
    assert level_of(not_found, retried=True, sent=True) == logging.INFO
    assert level_of(internal, retried=True, sent=True) == logging.ERROR


@pytest.mark.parametrize(("sent", "level"), [(False, logging.DEBUG), (True, logging.WARNING)])
def test_that_a_breaker_is_open_is_unusual_when_the_other_side_says_so(
    sent: bool, level: int
) -> None:
    refused = Ending(grpc.StatusCode.UNAVAILABLE, BREAKER_OPEN)
    assert level_of(refused, retried=False, sent=sent) == level


def test_what_was_never_sent_for_another_reason_keeps_its_level() -> None:
    too_late = Ending(grpc.StatusCode.DEADLINE_EXCEEDED)
    assert level_of(too_late, retried=False, sent=False) == logging.WARNING
