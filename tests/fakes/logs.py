"""Configures the logs as the service does, and undoes what that changes for the whole process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import structlog
from structlog.typing import Processor

from orderflow_server.telemetry.logs import Log, configure_logs

_CHANGED = (
    "",
    "orderflow_client",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
)


def configure(
    *,
    level: str = "info",
    form: Literal["auto", "json", "console"] = "json",
    otlp: Processor | None = None,
) -> Log:
    """`configure_logs`, within `logs_put_back`."""
    written = configure_logs(level=level, form=form, otlp=otlp)
    # The loggers of our modules would keep what they were first used with, for all other tests.
    structlog.configure(cache_logger_on_first_use=False)
    return written


@contextmanager
def logs_put_back() -> Iterator[None]:
    """At the end of the block the logs are as they were before it."""
    structlog_before = structlog.get_config()
    loggers = [logging.getLogger(name) for name in _CHANGED]
    before = [(logger.level, [*logger.handlers], [*logger.filters]) for logger in loggers]
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        structlog.configure(**structlog_before)
        for logger, (level, handlers, filters) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.filters[:] = filters
