"""What replicas tell each other of changed orders, through the database.

A notice leaves with the commit of what it tells of, and is lost where nobody listens.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from uuid import UUID

CHANNEL = "orderflow_changes"

_IDS_PER_NOTICE = 240
"""Of 32 digits each: PostgreSQL allows fewer than 8000 bytes."""
_DIGITS = 32


def notices(order_ids: Iterable[UUID]) -> list[str]:
    """The texts that tell of these orders."""
    rest = iter(order_ids)
    texts = []
    while some := list(islice(rest, _IDS_PER_NOTICE)):
        texts.append("".join(order_id.hex for order_id in some))
    return texts


def order_ids_in(notice: str) -> list[UUID]:
    """The orders that a notice tells of.

    Raises:
        ValueError: It is not one of ours.
    """
    return [UUID(notice[at : at + _DIGITS]) for at in range(0, len(notice), _DIGITS)]
