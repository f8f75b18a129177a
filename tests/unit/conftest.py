from __future__ import annotations

from hypothesis import settings

# The same examples on every run, however slow or busy the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")
