"""What replicas tell each other of changed orders, through the database.

A notice leaves with the commit of what it tells of, and is lost where nobody listens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from uuid import UUID

CHANNEL = "orderflow_changes"

_IDS_PER_NOTICE = 240
"""Of 32 digits each: PostgreSQL allows fewer than 8000 bytes."""
_BYTES = 16


def notices(order_ids: Iterable[UUID]) -> list[str]:
    """The texts that tell of these orders."""
    rest = iter(order_ids)
    texts = []
    while some := list(islice(rest, _IDS_PER_NOTICE)):
        texts.append("".join(order_id.hex for order_id in some))
    return texts


def order_ids_in(notice: str) -> Iterator[UUID]:
    """The orders that a notice tells of, each of them made when it is asked for.

    Most notices are this process's own, of orders that nobody watches.

    Raises:
        ValueError: It is not one of ours; raised at once.
    """
    digits = bytes.fromhex(notice)
    if len(digits) % _BYTES:
        raise ValueError(f"not ids of {_BYTES} bytes each: {len(digits)} bytes")
    return (UUID(bytes=digits[at : at + _BYTES]) for at in range(0, len(digits), _BYTES))
