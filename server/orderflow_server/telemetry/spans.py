"""Spans that say what failed, and leave what it said to the log, which keeps secrets out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import Span, Status, StatusCode, Tracer

from orderflow_client.telemetry.conventions import ERROR_TYPE


@contextmanager
def span(tracer: Tracer, name: str, **options: Any) -> Iterator[Span]:
    """The span of a block, current within it; `options` are those of `start_as_current_span`."""
    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False, **options
    ) as started:
        try:
            yield started
        except BaseException as error:
            failed(started, error)
            raise


def failed(span: Span, error: BaseException) -> None:
    """What the span is of failed."""
    kind = type(error).__qualname__
    span.set_attribute(ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, kind))
