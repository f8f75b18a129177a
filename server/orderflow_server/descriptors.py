"""How many files, and so connections, the process may have open."""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger("orderflow.security")

OWN_FILES = 256
"""For all that is no connection of a caller's: databases, pipes, the gateway, the log."""


def room_for_connections(wanted: int) -> int:
    """Raises the process's limit of open files as far as is needed and allowed.

    Returns how many connections there is room for, `wanted` at most. Fewer is told in the log.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    room = max(1, soft - OWN_FILES)
    log.warning("fewer connections than set, for want of files", connections=room, wanted=wanted)
    return room
