"""The `orderflow` command, also as `python -m orderflow_client`."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from orderflow_client.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"rich", "typer"}:
            raise
        sys.exit(
            "orderflow: the command needs more than the library does; install it with\n"
            "  pip install 'orderflow-client[cli]'"
        )
    app(prog_name="orderflow")


if __name__ == "__main__":
    main()
