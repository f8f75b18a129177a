from __future__ import annotations

import structlog

# As in production, no local variables in tracebacks: they would be huge, and slow to print.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)
