"""Who calls, and whose orders that one may see."""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass


class Role(enum.StrEnum):
    """What a caller is; the contract says what each role means and which method asks for it."""

    CUSTOMER = "customer"
    AUDITOR = "auditor"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as far as the call under way is concerned.

    Attributes:
        trusted: It may say how critical its calls are.
        only_customer: The customer whose orders are all that it may see and change. None:
            everybody's.
    """

    name: str
    trusted: bool
    only_customer: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody proved to be.

    Attributes:
        subject: Its name; of a customer, the customer_id.
    """

    subject: str
    roles: frozenset[Role]

    def __post_init__(self) -> None:
        if not self.subject:
            # In a query no customer_id means every customer's orders.
            raise ValueError("somebody without a name is nobody")

    def principal(self, granted_by: frozenset[Role], *, trusted: bool) -> Principal:
        """What it is in a call to a method.

        Args:
            granted_by: Those of its roles that the method asks for. Who is let in only as a
                customer sees only its own orders, whatever it may do elsewhere.
            trusted: All callers are; otherwise operators are.
        """
        own_only = granted_by == _ONLY_CUSTOMER
        return Principal(
            self.subject,
            trusted or Role.OPERATOR in granted_by,
            self.subject if own_only else None,
        )


_ONLY_CUSTOMER = frozenset({Role.CUSTOMER})

current_principal: ContextVar[Principal] = ContextVar("current_principal")
"""Who makes the call under way. There is no default: code that nobody is known to have called must
not see everybody's orders."""
