"""A logger whose lines are made when they are written: a little later, and many at a time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import structlog
from structlog.typing import EventDict, Processor

from orderflow_server.telemetry.call_line import CallLine
from orderflow_server.telemetry.correlation import SPAN, call_names, current_span
from orderflow_server.telemetry.lines import Lines

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_URGENT = logging.ERROR
_NO_NAMES: Mapping[str, str] = {}


def late_lines(
    least: int, lines: Lines, *, at_once: int, call_line: CallLine | None
) -> type[structlog.BoundLoggerBase]:
    """Makes structlog's wrapper class, with a method for each level and `exception`.

    Of an event only what the moment knows is noted at once: the time, the call, the span, the
    exception. structlog's own classes run every processor in the middle of the call, and take
    twice as long. Values are to stay as they are until the line is written.

    Args:
        least: The least important level that is written.
        lines: Takes the lines.
        at_once: How many of the configured processors, from the first, are run at once.
        call_line: The class's `call_line`, which writes the lines of calls. None: it has none.
    """
    methods: dict[str, Callable[..., None]] = {
        name: _method(name, lines, urgent=level >= _URGENT, at_once=at_once)
        if level >= least
        else _nothing
        for name, level in _LEVELS.items()
    }
    error = methods["error"]

    def exception(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
        error(self, event, **{"exc_info": True, **fields})

    return type(
        "LateLines",
        (structlog.BoundLoggerBase,),
        {**methods, "exception": exception, "call_line": call_line},
    )


def _method(level: str, lines: Lines, *, urgent: bool, at_once: int) -> Callable[..., None]:
    write = lines.now if urgent else lines.later

    def note(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
        line: EventDict = {
            "event": event,
            "level": level,
            "timestamp": datetime.now(UTC),
            SPAN: current_span(),
            **(call_names.get() or _NO_NAMES),
            **self._context,
            **fields,
        }
        if line.get("exc_info") is True:
            # The one that is being handled now.
            line["exc_info"] = sys.exc_info()
        # structlog's type allows for any iterable; it is given a list.
        processors = cast("Sequence[Processor]", self._processors)
        if at_once:
            try:
                for process in processors[:at_once]:
                    line = process(lines, level, line)  # type: ignore[assignment]  # all but the last return one
            except structlog.DropEvent:
                return
            processors = processors[at_once:]
        write(partial(finished, processors, level, line))

    return note


def _nothing(_self: structlog.BoundLoggerBase, _event: str, **_fields: Any) -> None:
    """Less important than what is written."""


def finished(processors: Sequence[Processor], level: str, event: EventDict) -> str:
    """Return the text that the processors make of an event."""
    line: Any = event
    for process in processors:
        line = process(None, level, line)
    return str(line)
