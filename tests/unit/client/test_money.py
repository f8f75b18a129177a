from __future__ import annotations

from decimal import Decimal

import pytest
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from orderflow_client import money, to_decimal

MAX_UNITS = 2**63 - 1


@pytest.mark.parametrize(
    ("amount", "units", "nanos"),
    [
        ("12.50", 12, 500_000_000),
        ("0", 0, 0),
        ("-0", 0, 0),
        ("0.1", 0, 100_000_000),
        ("0.000000001", 0, 1),
        ("1e3", 1000, 0),
        (7, 7, 0),
        (Decimal("1.0000000000000"), 1, 0),
        (f"{MAX_UNITS}.999999999", MAX_UNITS, 999_999_999),
    ],
)
def test_an_amount_is_what_was_written(amount: str | int | Decimal, units: int, nanos: int) -> None:
    assert money(amount, "EUR") == Money(currency_code="EUR", units=units, nanos=nanos)


@given(st.integers(0, MAX_UNITS), st.integers(0, 999_999_999))
def test_it_survives_the_way_there_and_back(units: int, nanos: int) -> None:
    value = Money(currency_code="EUR", units=units, nanos=nanos)
    assert money(to_decimal(value), "EUR") == value
    assert money(str(to_decimal(value)), "EUR") == value


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_any_decimal_is_kept_exactly_or_refused(amount: Decimal) -> None:
    try:
        value = money(amount, "EUR")
    except ValueError:
        return
    assert to_decimal(value) == amount


@pytest.mark.parametrize("amount", [12.5, 0.0, True, None])
def test_floats_and_other_things_are_refused(amount: object) -> None:
    with pytest.raises(TypeError, match="text"):
        money(amount, "EUR")  # type: ignore[arg-type]  # what a caller without mypy may do


@pytest.mark.parametrize(
    ("amount", "complaint"),
    [
        ("", "not an amount"),
        ("twelve", "not an amount"),
        ("NaN", "not an amount"),
        ("inf", "not an amount"),
        ("-0.01", "negative"),
        ("0.0000000001", "nine decimals"),
        ("1e-999999999", "nine decimals"),
        (str(MAX_UNITS + 1), "too large"),
        ("1e999999999", "too large"),
    ],
)
def test_what_is_no_price_is_refused(amount: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        money(amount, "EUR")


@pytest.mark.parametrize(
    ("units", "nanos", "text"),
    [
        (12, 500_000_000, "12.50"),
        (3, 0, "3.00"),
        (0, 1, "0.000000001"),
        (-1, -500_000_000, "-1.50"),
    ],
)
def test_it_is_shown_with_two_decimals_or_more(units: int, nanos: int, text: str) -> None:
    assert f"{to_decimal(Money(units=units, nanos=nanos)):f}" == text
