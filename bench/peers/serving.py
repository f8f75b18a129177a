"""Uvicorn as it comes, for the peers that speak HTTP."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from orderflow_server.lifecycle import leave_alone_what_stays, let_threads_finish_their_turns

_IDLE_S = 600
_WAITING = 1024


def serve(app: Any) -> None:
    """Serves on a free port, which is printed, until it is killed.

    It takes uvloop and httptools where they are installed, and writes no access log: the peer is
    spared what the service does for each call. Connections outlast the turns of the others.
    """
    listening = socket.create_server(("127.0.0.1", 0), backlog=_WAITING)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_keep_alive=_IDLE_S, backlog=_WAITING
    )
    # As the service does, and to the good of all alike.
    let_threads_finish_their_turns()
    leave_alone_what_stays()
    uvicorn.Server(config).run(sockets=[listening])
