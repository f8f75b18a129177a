"""Amounts of money for requests: exact decimals to and from google.type.Money, never floats."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from google.type.money_pb2 import Money

NANOS_PER_UNIT = 1_000_000_000
_MAX_UNITS = 2**63 - 1


def money(amount: str | int | Decimal, currency_code: str) -> Money:
    """An amount, exactly as written: `money("12.50", "EUR")`.

    Args:
        amount: Not negative, with at most nine decimals.
        currency_code: Three capital letters, ISO 4217.

    Raises:
        TypeError: For a float, which cannot hold most amounts exactly.
        ValueError: For what is not such an amount.
    """
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise TypeError(
            f"an amount is a str, an int or a Decimal, not a {type(amount).__name__}: "
            "write it as text"
        )
    try:
        value = Decimal(amount)
    except InvalidOperation as error:
        raise ValueError(f"{amount!r} is not an amount") from error
    if not value.is_finite():
        raise ValueError(f"{amount!r} is not an amount")
    if value.is_signed() and value:
        raise ValueError(f"{amount!r} is negative")
    # Looked at before computing: a large exponent would make huge integers.
    if value and value.adjusted() > len(str(_MAX_UNITS)):
        raise ValueError(f"{amount!r} is too large")
    if value and value.adjusted() < -9:
        raise ValueError(f"{amount!r} has more than nine decimals")
    numerator, denominator = value.as_integer_ratio()
    nanos, fraction = divmod(numerator * NANOS_PER_UNIT, denominator)
    if fraction:
        raise ValueError(f"{amount!r} has more than nine decimals")
    units, nanos = divmod(nanos, NANOS_PER_UNIT)
    if units > _MAX_UNITS:
        raise ValueError(f"{amount!r} is too large")
    return Money(currency_code=currency_code, units=units, nanos=nanos)


def to_decimal(amount: Money) -> Decimal:
    """The amount without its currency, exactly, with at least two decimals."""
    sign = "-" if amount.units < 0 or amount.nanos < 0 else ""
    decimals = f"{abs(amount.nanos):09}".rstrip("0").ljust(2, "0")
    return Decimal(f"{sign}{abs(amount.units)}.{decimals}")
