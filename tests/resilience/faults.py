"""Failures that say themselves what they mean."""

from __future__ import annotations

from orderflow_client.resilience.policy import Rejected
from orderflow_client.resilience.retry import Verdict


class Fault(Exception):
    """A failure that carries its own verdict."""

    def __init__(self, *, retryable: bool = True, pushback_s: float | None = None) -> None:
        super().__init__()
        self.verdict = Verdict(retryable, pushback_s)


class Refusal(Rejected):
    def __init__(self) -> None:
        super().__init__("refused", name="test", retry_after_s=1)


def verdict_of(error: Exception) -> Verdict:
    return error.verdict if isinstance(error, Fault) else Verdict(retryable=False)
