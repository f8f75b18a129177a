"""The text of ids."""

from __future__ import annotations

from functools import lru_cache

text_of = lru_cache(maxsize=1024)(str)
"""A UUID as text. `uuid.UUID` makes it anew each time, and an order's is asked for eight times."""
