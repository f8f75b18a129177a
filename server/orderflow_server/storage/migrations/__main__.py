"""`python -m orderflow_server.storage.migrations`: takes the steps that are missing, and ends.

For a server that starts, see `apart`; people have `orderflow-server migrate`. It imports as little
as it can, because a first start waits for it.
"""

from __future__ import annotations

import asyncio
import os
import sys

from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.migrations.sqlite import upgrade_file

ADDRESS_VARIABLE = "ORDERFLOW_DATABASE"
UNAVAILABLE = 3
"""The exit code of a StoreUnavailable, whose text is on standard output. Of what nobody foresaw
there is a traceback on standard error."""


def main() -> int:
    database = DatabaseAddress.parse(os.environ[ADDRESS_VARIABLE])
    try:
        if database.path is not None:
            upgrade_file(database.path)
        else:
            from orderflow_server.storage.opening import upgrade

            asyncio.run(upgrade(database))
    except StoreUnavailable as error:
        sys.stdout.buffer.write(str(error).encode(errors="replace"))
        return UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
