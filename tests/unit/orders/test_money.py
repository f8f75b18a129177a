"""Money: exact, or an error; never rounded and never wrapped around."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orderflow_server.orders.money import MAX_UNITS, NANOS_PER_UNIT, Money, MoneyError

units = st.integers(0, MAX_UNITS) | st.integers(0, 10_000)
nanos = st.integers(0, NANOS_PER_UNIT - 1) | st.sampled_from([0, 1, NANOS_PER_UNIT - 1])
euros = st.builds(Money, st.just("EUR"), units, nanos)
lines = st.lists(st.tuples(st.integers(1, 1_000_000), euros), min_size=1, max_size=100)

# Everything below one unit above the largest amount is an amount.
LIMIT = MAX_UNITS + 1


def exactly(money: Money) -> Fraction:
    return money.units + Fraction(money.nanos, NANOS_PER_UNIT)


@given(lines)
@example([(2, Money("EUR", 0, 500_000_000))])
@example([(1, Money("EUR", MAX_UNITS, NANOS_PER_UNIT - 1))])
@example([(1, Money("EUR", MAX_UNITS, NANOS_PER_UNIT - 1)), (1, Money("EUR", 0, 1))])
def test_a_total_is_exact_or_refused(amounts: list[tuple[int, Money]]) -> None:
    truth = sum((quantity * exactly(price) for quantity, price in amounts), Fraction(0))
    if truth < LIMIT:
        total = Money.total(amounts)
        assert exactly(total) == truth
        assert total.currency_code == "EUR"
    else:
        with pytest.raises(MoneyError, match="larger"):
            Money.total(amounts)


def test_cents_do_not_drift() -> None:
    # 0.1 has no exact float: a thousand of them as floats are not 100.
    assert Money.total([(1, Money("EUR", 0, 100_000_000))] * 1000) == Money("EUR", 100)


@given(lines, st.integers(0, 100), st.integers(0, 10))
def test_one_other_currency_anywhere_is_refused(
    amounts: list[tuple[int, Money]], place: int, dollars: int
) -> None:
    amounts.insert(min(place, len(amounts)), (1, Money("USD", dollars)))
    with pytest.raises(MoneyError, match=r"EUR and USD|USD and EUR"):
        Money.total(amounts)


def test_a_total_of_nothing_is_refused() -> None:
    with pytest.raises(MoneyError):
        Money.total([])


@pytest.mark.parametrize(
    "code", ["", "EU", "EURO", "eur", "EuR", "E1R", "E R", "EUR\n", "ÄÖÜ", "\uff25\uff35\uff32"]
)
def test_a_currency_is_three_capital_letters(code: str) -> None:
    with pytest.raises(MoneyError, match="currency_code"):
        Money(code, 1)


@pytest.mark.parametrize(
    ("units", "nanos"),
    [(-1, 0), (MAX_UNITS + 1, 0), (0, -1), (0, NANOS_PER_UNIT), (-1, NANOS_PER_UNIT - 1)],
)
def test_a_part_out_of_its_range_is_refused(units: int, nanos: int) -> None:
    with pytest.raises(MoneyError):
        Money("EUR", units, nanos)


def test_the_largest_amount_is_one() -> None:
    assert exactly(Money("EUR", MAX_UNITS, NANOS_PER_UNIT - 1)) < LIMIT
