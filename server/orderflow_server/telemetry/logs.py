"""Structured logs: one event a line on stdout, JSON for machines, columns for a terminal."""

from __future__ import annotations

import atexit
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from orderflow_server.telemetry.call_line import CallLine
from orderflow_server.telemetry.correlation import add_ids
from orderflow_server.telemetry.late_lines import finished, late_lines
from orderflow_server.telemetry.line_writer import FileSink, LineWriter, Sink
from orderflow_server.telemetry.lines import Lines, made
from orderflow_server.telemetry.redaction import may_have_secrets, redact, redacted_text
from orderflow_server.telemetry.stdlib_logs import take_in_libraries


def configure_logs(
    *, level: str, form: Literal["auto", "json", "console"], otlp: Processor | None = None
) -> Log:
    """Sets up the logs of this process, the libraries' too; call it before anything logs.

    Args:
        level: The least important lines that are written.
        form: auto is console on a terminal and JSON elsewhere.
        otlp: Is given every line, without its secrets, and takes it elsewhere as well.

    Returns:
        The way of the lines. The end of the process flushes it, and waits for a slow reader for
        at most a second.
    """
    # None: the process was started without standard output.
    stdout: TextIO | None = sys.stdout
    console = form == "console" or (form == "auto" and stdout is not None and stdout.isatty())
    least = logging.getLevelNamesMapping()[level.upper()]
    finish = finishing(console=console, otlp=otlp)
    sink = _sink(stdout, finish)
    lines = Lines(sink)
    written = Log(lines, sink)
    # Its form is JSON, and what gives lines away wants the events.
    by_hand = not console and otlp is None and least <= logging.INFO
    atexit.register(written.end)
    structlog.configure(
        processors=[add_ids, *finish],
        # What gives lines away must do so within their span.
        wrapper_class=late_lines(
            least,
            lines,
            at_once=0 if otlp is None else len(finish),
            call_line=CallLine(lines, json_line) if by_hand else None,
        ),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    take_in_libraries(lines, level=least, finish=finish)
    return written


_END_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Log:
    """The way of this process's log lines to standard output."""

    _lines: Lines
    _sink: Sink

    def dropped(self) -> int:
        """Return the number of lines dropped because standard output did not take them."""
        return self._sink.dropped

    def flush(self) -> None:
        """Hand over the lines that wait."""
        self._lines.flush()

    def end(self) -> None:
        """Flush, and wait until the lines are written, for at most a second."""
        self._lines.flush()
        self._sink.drain(_END_TIMEOUT_S)


def _sink(stdout: TextIO | None, finish: Sequence[Processor]) -> Sink:
    if stdout is None:
        return FileSink(None)

    def gap_line(number: int) -> str:
        event = {
            "event": "log lines dropped: standard output was not read or not writable",
            "level": "warning",
            "lines": number,
        }
        return made(partial(finished, finish, "warning", event))

    try:
        return LineWriter(stdout.fileno(), encoding=stdout.encoding, gap_line=gap_line)
    except io.UnsupportedOperation:
        # A file in memory.
        return FileSink(stdout)


def json_line(event: EventDict) -> str:
    """The text of an event that has noted its span, without its secrets."""
    return _redacted_json_line(None, "info", add_ids(None, "info", event))


def finishing(*, console: bool, otlp: Processor | None = None) -> Sequence[Processor]:
    """What makes a line of an event that has all its fields; the libraries' take it as well."""
    if console:
        aside = [] if otlp is None else [_with_a_copy(otlp)]
        return [*aside, redact, _console_line]
    if otlp is not None:
        return [_STRUCTURED_EXCEPTIONS, redact, otlp, _json_line]
    return [_redacted_json_line]


def _with_a_copy(otlp: Processor) -> Processor:
    """For the console, which wants the exceptions as they are."""

    def export(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        copied = _STRUCTURED_EXCEPTIONS(logger, method, dict(event))
        otlp(logger, method, redact(logger, method, copied))
        return event

    return export


def _redacted_traceback(file: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    file.write(redacted_text(text.getvalue()))


# Never with local variables, which both of structlog's renderers show by default: payment tokens
# and requests are among them.
_CONSOLE = structlog.dev.ConsoleRenderer(exception_formatter=_redacted_traceback)
_STRUCTURED_EXCEPTIONS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)

# Dataclasses by their repr, which is what the redaction has seen of them.
_JSON_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def _redacted_json_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
    if "exc_info" in event:
        event = _STRUCTURED_EXCEPTIONS(logger, method, event)
    # To look through the finished line takes a fraction of the time of looking at each field.
    line = _json_line(logger, method, event)
    if may_have_secrets(line):
        line = _json_line(logger, method, redact(logger, method, event))
    return line


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    if "timestamp" not in event:
        event["timestamp"] = datetime.now(UTC)
    try:
        return orjson.dumps(event, default=_plain, option=_JSON_OPTIONS).decode()
    except orjson.JSONEncodeError:
        # Not UTF-8, such as the name of a file, or an integer of more than 64 bits: a line is
        # never what a call fails of.
        return json.dumps(_with_its_time_as_text(event), default=_plain, skipkeys=True)


def _console_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
    if "timestamp" not in event:
        event["timestamp"] = datetime.now(UTC)
    return str(_CONSOLE(logger, method, _with_its_time_as_text(event)))


def _with_its_time_as_text(event: EventDict) -> EventDict:
    return {**event, "timestamp": event["timestamp"].isoformat().replace("+00:00", "Z")}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, set | frozenset) else repr(value)
