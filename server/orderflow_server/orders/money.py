"""Money in integers: an amount of one currency, exact to a billionth of its unit."""

from __future__ import annotations

from collections.abc import Iterable

from orderflow_server.orders.value import Value

NANOS_PER_UNIT = 1_000_000_000
MAX_UNITS = 2**63 - 1
"""The largest `units` of google.type.Money, an int64."""


class MoneyError(ValueError):
    """An amount that is not one: malformed, negative, too large, or of mixed currencies."""


class Money(Value, frozen=True, gc=False):
    """A non-negative amount.

    Attributes:
        currency_code: Three capital letters, ISO 4217.
        units: Whole units, 0 to 2^63 - 1.
        nanos: Billionths of a unit, 0 to 999 999 999.

    Raises:
        MoneyError: When a part is out of its range.
    """

    currency_code: str
    units: int
    nanos: int = 0

    def __post_init__(self) -> None:
        code = self.currency_code
        if len(code) != 3 or not (code.isascii() and code.isalpha() and code.isupper()):
            raise MoneyError("currency_code must be three capital letters (ISO 4217)")
        if self.units < 0:
            raise MoneyError("units must not be negative")
        if self.units > MAX_UNITS:
            raise MoneyError(f"the amount is larger than {MAX_UNITS} units")
        if not 0 <= self.nanos < NANOS_PER_UNIT:
            raise MoneyError(f"nanos must be between 0 and {NANOS_PER_UNIT - 1}")

    @classmethod
    def total(cls, amounts: Iterable[tuple[int, Money]]) -> Money:
        """The sum of `quantity * price` over one or more pairs of one currency.

        Raises:
            MoneyError: For no pairs, mixed currencies, or a sum beyond `MAX_UNITS`.
        """
        currency_code = ""
        total_nanos = 0
        for quantity, price in amounts:
            if not currency_code:
                currency_code = price.currency_code
            elif price.currency_code != currency_code:
                raise MoneyError(f"{currency_code} and {price.currency_code} cannot be added")
            total_nanos += quantity * (price.units * NANOS_PER_UNIT + price.nanos)
        if not currency_code:
            raise MoneyError("a sum of nothing has no currency")
        units, nanos = divmod(total_nanos, NANOS_PER_UNIT)
        return cls(currency_code, units, nanos)
