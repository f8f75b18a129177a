from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from orderflow_client import errors
from orderflow_client.resilience.breaker import Outcome
from orderflow_client.resilience.retry import Verdict
from orderflow_client.status import NeverSent, outcome_of, verdict_on

FAMILIES = {
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "OUT_OF_RANGE": errors.InvalidRequest,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.Conflict,
    "ABORTED": errors.Conflict,
    "FAILED_PRECONDITION": errors.Conflict,
    "UNAUTHENTICATED": errors.PermissionDenied,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "RESOURCE_EXHAUSTED": errors.Overloaded,
    "UNAVAILABLE": errors.Unavailable,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "CANCELLED": errors.Cancelled,
    "INTERNAL": errors.ServerError,
    "UNKNOWN": errors.ServerError,
    "DATA_LOSS": errors.ServerError,
    "UNIMPLEMENTED": errors.ServerError,
}
FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def rpc_error(
    code: grpc.StatusCode,
    *details: Message,
    message: str = "text",
    initial: grpc.aio.Metadata | None = None,
    trailing: grpc.aio.Metadata | None = None,
) -> grpc.aio.AioRpcError:
    trailing = trailing or grpc.aio.Metadata()
    if details:
        status = status_pb2.Status()
        for detail in details:
            status.details.add().Pack(detail)
        trailing.add("grpc-status-details-bin", status.SerializeToString())
    return grpc.aio.AioRpcError(code, initial or grpc.aio.Metadata(), trailing, details=message)


@pytest.mark.parametrize("code", FAILURES)
def test_every_status_has_its_family(code: grpc.StatusCode) -> None:
    error = errors.from_rpc_error(rpc_error(code))
    assert type(error) is FAMILIES[code.name]
    assert isinstance(error, errors.OrderflowError)
    assert error.code is code
    assert error.message == "text"


def test_without_details_everything_is_empty() -> None:
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, message=""))
    assert error.message == "UNAVAILABLE"
    assert error.reason == ""
    assert error.metadata == {}
    assert error.retry_delay_s is None
    assert error.violations == ()
    assert error.request_id is None
    assert error.trace_id is None
    assert str(error) == "UNAVAILABLE: UNAVAILABLE"


def test_details_are_read() -> None:
    error = errors.from_rpc_error(
        rpc_error(
            grpc.StatusCode.INVALID_ARGUMENT,
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field="items[0].quantity", description="must be at least 1"
                    )
                ]
            ),
            error_details_pb2.ErrorInfo(
                reason="INVALID_REQUEST", domain="orderflow", metadata={"k": "v"}
            ),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            error_details_pb2.ResourceInfo(resource_name="not read"),
        )
    )
    assert error.reason == "INVALID_REQUEST"
    assert error.metadata == {"k": "v"}
    assert error.retry_delay_s == 1.5
    assert error.violations == (("items[0].quantity", "must be at least 1"),)
    assert str(error) == "INVALID_ARGUMENT (INVALID_REQUEST): text"


def test_precondition_failures_are_violations_too() -> None:
    failure = error_details_pb2.PreconditionFailure(
        violations=[
            error_details_pb2.PreconditionFailure.Violation(
                type="STATE", subject="orders/1", description="it is declined"
            )
        ]
    )
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.FAILED_PRECONDITION, failure))
    assert error.violations == (("orders/1", "it is declined"),)


def test_the_request_is_named_by_either_metadata() -> None:
    error = errors.from_rpc_error(
        rpc_error(
            grpc.StatusCode.INTERNAL,
            initial=grpc.aio.Metadata(("x-request-id", "r-1")),
            trailing=grpc.aio.Metadata(("x-trace-id", "t-1")),
        )
    )
    assert (error.request_id, error.trace_id) == ("r-1", "t-1")


def test_the_request_is_named_by_the_error_info_where_the_metadata_do_not() -> None:
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", metadata={"request_id": "r-2", "trace_id": "t-2"}
    )
    error = errors.from_rpc_error(
        rpc_error(
            grpc.StatusCode.INTERNAL, info, trailing=grpc.aio.Metadata(("x-request-id", "r-1"))
        )
    )
    assert (error.request_id, error.trace_id) == ("r-1", "t-2")


@pytest.mark.parametrize("raw", [b"\xff", b"\x1a\x05\x0a\x03\xff\xff\xff"])
def test_details_that_cannot_be_read_do_not_hide_the_error(raw: bytes) -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", raw))
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, trailing=trailing))
    assert isinstance(error, errors.NotFound)
    assert error.reason == ""


def test_a_detail_whose_own_bytes_are_broken_does_not_hide_the_error() -> None:
    status = status_pb2.Status()
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff\xff")
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, trailing=trailing))
    assert isinstance(error, errors.NotFound)


class TestVerdict:
    @pytest.mark.parametrize("code", FAILURES)
    def test_only_these_codes_may_be_retried(self, code: grpc.StatusCode) -> None:
        retryable = code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        assert verdict_on(rpc_error(code)) == Verdict(retryable)

    def test_overload_may_be_when_the_server_says_when(self) -> None:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        trailing = grpc.aio.Metadata(("grpc-retry-pushback-ms", "20"))
        assert verdict_on(rpc_error(code, trailing=trailing)) == Verdict(True, 0.02)
        delay = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
        assert verdict_on(rpc_error(code, delay)) == Verdict(True, 2)

    def test_the_pushback_of_grpc_comes_before_retry_info(self) -> None:
        delay = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
        trailing = grpc.aio.Metadata(("grpc-retry-pushback-ms", "20"))
        error = rpc_error(grpc.StatusCode.UNAVAILABLE, delay, trailing=trailing)
        assert verdict_on(error) == Verdict(True, 0.02)

    @pytest.mark.parametrize("value", ["-1", "soon", "", "1.5"])
    def test_a_pushback_that_is_negative_or_unreadable_means_stop(self, value: str) -> None:
        trailing = grpc.aio.Metadata(("grpc-retry-pushback-ms", value))
        pushback_s = verdict_on(
            rpc_error(grpc.StatusCode.UNAVAILABLE, trailing=trailing)
        ).pushback_s
        assert pushback_s is not None
        assert pushback_s < 0

    def test_a_pushback_makes_no_other_code_retryable(self) -> None:
        trailing = grpc.aio.Metadata(("grpc-retry-pushback-ms", "20"))
        assert not verdict_on(rpc_error(grpc.StatusCode.INTERNAL, trailing=trailing)).retryable

    def test_what_is_no_rpc_error_may_not_be_retried(self) -> None:
        assert verdict_on(ValueError()) == Verdict(retryable=False)

    def test_what_was_never_sent_may_not_be_retried(self) -> None:
        assert verdict_on(NeverSent(grpc.StatusCode.DEADLINE_EXCEEDED)) == Verdict(retryable=False)


class TestOutcome:
    @pytest.mark.parametrize("code", FAILURES)
    def test_only_these_codes_speak_against_the_server(self, code: grpc.StatusCode) -> None:
        expected = {
            "UNAVAILABLE": Outcome.FAILURE,
            "DEADLINE_EXCEEDED": Outcome.UNANSWERED,
            "INTERNAL": Outcome.FAILURE,
            "UNKNOWN": Outcome.FAILURE,
            "DATA_LOSS": Outcome.FAILURE,
            "CANCELLED": Outcome.IGNORED,
        }
        assert outcome_of(rpc_error(code)) is expected.get(code.name, Outcome.SUCCESS)

    def test_what_never_got_there_says_nothing(self) -> None:
        assert outcome_of(ValueError()) is Outcome.IGNORED
        assert outcome_of(NeverSent(grpc.StatusCode.DEADLINE_EXCEEDED)) is Outcome.IGNORED
