"""Structured logs: one event a line on stdout, JSON for machines, columns for a terminal."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

import structlog
from structlog.typing import ExcInfo, Processor

from orderflow_server.telemetry.redaction import redact, redacted_text


def configure_logs(*, level: str, form: Literal["auto", "json", "console"]) -> None:
    """Sets structlog up for this process; call it once, before anything logs."""
    console = form == "console" or (form == "auto" and sys.stdout.isatty())
    structlog.configure(
        processors=processors(console=console),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


def processors(*, console: bool) -> Sequence[Processor]:
    """What makes a line of an event, in order."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *(_CONSOLE if console else _JSON),
    ]


def _redacted_traceback(file: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    file.write(redacted_text(text.getvalue()))


# Never with local variables, which both of structlog's renderers show by default: payment tokens
# and requests are among them.
_CONSOLE: Sequence[Processor] = (
    redact,
    structlog.dev.ConsoleRenderer(exception_formatter=_redacted_traceback),
)
_JSON: Sequence[Processor] = (
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    redact,
    structlog.processors.JSONRenderer(),
)
