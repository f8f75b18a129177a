"""The lines of the libraries, which log with the standard library, in the same form as ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import structlog
from structlog.typing import Processor

from orderflow_server.telemetry.correlation import add_names
from orderflow_server.telemetry.lines import Lines, made
from orderflow_server.telemetry.quiet import quiet_exporters


def take_in_libraries(lines: Lines, *, level: int, finish: Sequence[Processor]) -> None:
    """Writes what is logged with `logging`, and every warning, where our own lines go.

    Of libraries only warnings and worse, unless the level is DEBUG. Our own client library
    follows the level.

    Args:
        lines: Takes the lines.
        level: The least important lines of ours that are written.
        finish: What makes a line of an event, once it has all its fields.
    """
    handler = _To(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                add_names,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    of_libraries = level if level <= logging.DEBUG else max(level, logging.WARNING)
    logging.basicConfig(handlers=[handler], level=of_libraries, force=True)
    logging.getLogger("orderflow_client").setLevel(level)
    logging.captureWarnings(True)
    quiet_exporters()


class _To(logging.Handler):
    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        # Not `handleError` where that fails: it prints to standard error, which can block.
        line = made(partial(self.format, record))
        if record.levelno >= logging.ERROR:
            self._lines.now(line)
        else:
            self._lines.later(line)
