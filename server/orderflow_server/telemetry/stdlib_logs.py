"""The lines of the libraries, which log with the standard library, in the same form as ours."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import structlog
from structlog.typing import Processor

from orderflow_server.telemetry.correlation import add_span_ids
from orderflow_server.telemetry.quiet import quiet_exporters


def take_in_libraries(*, level: int, finish: Sequence[Processor]) -> None:
    """Writes what is logged with `logging`, and every warning, to stdout.

    Of libraries only warnings and worse, unless the level is DEBUG. Our own client library
    follows the level.

    Args:
        level: The least important lines of ours that are written.
        finish: What makes a line of an event, once it has all its fields.
    """
    handler = logging.StreamHandler(_Stdout())
    handler.terminator = ""
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                add_span_ids,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    of_libraries = level if level <= logging.DEBUG else max(level, logging.WARNING)
    logging.basicConfig(handlers=[handler], level=of_libraries, force=True)
    logging.getLogger("orderflow_client").setLevel(level)
    logging.captureWarnings(True)
    quiet_exporters()


class _Stdout:
    """Where our own lines go, under the same lock: a text file mixes up those of two threads."""

    def __init__(self) -> None:
        self._lines = structlog.WriteLogger(sys.stdout)

    def write(self, line: str) -> None:
        self._lines.msg(line)

    def flush(self) -> None:
        """Each line is flushed as it is written."""
