"""What a policy is: it takes a function and gives its result, or does not.

No policy knows what the function does; what runs on a wire is for adapters to know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")

Operation = Callable[[], Awaitable[T]]
"""What a policy runs: once, several times or not at all."""


class Policy(Protocol):
    async def run(self, operation: Operation[T]) -> T:
        """The result of the operation.

        Raises:
            Rejected: When the policy refused to start it.
            Exception: What the operation raised, as it was raised.
        """
        ...


class Rejected(Exception):
    """A policy refused an operation without starting it: nothing was sent, nothing done.

    Attributes:
        name: Which policy refused.
        retry_after_s: When it may be worth asking again.
    """

    def __init__(self, message: str, *, name: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.name = name
        self.retry_after_s = retry_after_s


class _Composed:
    def __init__(self, policies: tuple[Policy, ...]) -> None:
        self._innermost_first = policies[::-1]

    async def run(self, operation: Operation[T]) -> T:
        for policy in self._innermost_first:
            operation = partial(policy.run, operation)
        return await operation()


def compose(*policies: Policy) -> Policy:
    """One policy made of several, the outermost first.

    `compose(hedge, retry, breaker, attempt_timeout).run(wire)`, under the call's deadline, is

        deadline            one for the call; `deadline.within`, as it is not the same for each
          hedge             races a slow attempt with another
            retry           repeats a failed one: each racer on its own, all from one budget
              breaker       sees every attempt, and refuses them when too many failed
                timeout     so that an attempt that took too long is a failure to the breaker
                  wire      counts its attempts: it runs once for each

    None of them is a policy that runs the operation as it is.
    """
    return _Composed(policies)
