from __future__ import annotations

from fakes.postgres import postgres

__all__ = ["postgres"]
