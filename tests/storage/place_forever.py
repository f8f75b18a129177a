"""Places orders until it is killed, and prints the number of each that is acknowledged."""

import asyncio
import itertools
import sys
from pathlib import Path

from fakes.orders import LEASE_FOR, new_order
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for


async def main(path: Path) -> None:
    numbers = itertools.count()
    async with open_store_for(DatabaseAddress(path=path)) as store:

        async def place() -> None:
            for number in numbers:
                await store.place(new_order(number), lease=LEASE_FOR)
                sys.stdout.write(f"{number}\n")
                sys.stdout.flush()

        await asyncio.gather(*(place() for _ in range(20)))


asyncio.run(main(Path(sys.argv[1])))
