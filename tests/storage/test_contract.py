"""What every store does, whatever it keeps its orders in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from fakes.clock import FakeClock
from fakes.orders import LEASE, LEASE_FOR, NOW, new_order, order_id
from orderflow_server.orders.errors import (
    InvalidValue,
    OrderNotFound,
    RequestIdReused,
    VersionConflict,
)
from orderflow_server.orders.money import MAX_UNITS, Money
from orderflow_server.orders.order import Order, OrderChange, OrderItem, OrderQuery, OrderState
from orderflow_server.orders.ports import (
    LONGEST_LEASE,
    REPEATED_ATTEMPTS,
    Backlog,
    LeasedOrder,
    OrderStore,
    Waiting,
)

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
EVERYTHING = OrderQuery(limit=1000)


def change_of(order: Order) -> OrderChange:
    return OrderChange(
        order_id=order.id,
        version=order.version,
        state=order.state,
        decline_reason=order.decline_reason,
        time=order.update_time,
    )


# Placing


async def test_a_placed_order_is_read_as_it_was_written(store: OrderStore) -> None:
    order = new_order()
    assert await store.place(order, lease=LEASE_FOR) == order
    assert await store.get(order.id) == order
    assert await store.list(EVERYTHING) == [order]
    assert await store.changes(order.id, after_version=0) == [change_of(order)]


async def test_placing_again_answers_the_stored_order_and_writes_nothing(
    store: OrderStore,
) -> None:
    order = await store.place(new_order(1), lease=LEASE_FOR)
    again = await store.place(new_order(2, request=1), lease=LEASE_FOR)
    assert again == order
    assert await store.list(EVERYTHING) == [order]


async def test_placing_again_answers_the_order_as_it_is_by_now(store: OrderStore) -> None:
    order = await store.place(new_order(1), lease=LEASE_FOR)
    paid = order.paid(NOW + SECOND)
    await store.save(paid)
    assert await store.place(new_order(2, request=1), lease=LEASE_FOR) == paid


async def test_a_request_id_is_refused_for_other_content(store: OrderStore) -> None:
    order = await store.place(new_order(1), lease=LEASE_FOR)
    other = new_order(2, request=1, customer_id="bob")
    with pytest.raises(RequestIdReused) as refused:
        await store.place(other, lease=LEASE_FOR)
    assert refused.value.request_id == order.request_id
    assert await store.list(EVERYTHING) == [order]


async def test_one_request_id_at_once_from_many_places_one_order(store: OrderStore) -> None:
    attempts = [new_order(number, request=1) for number in range(200)]
    answers = await asyncio.gather(*(store.place(order, lease=LEASE_FOR) for order in attempts))
    [stored] = await store.list(EVERYTHING)
    assert stored in attempts
    assert answers == [stored] * 200
    assert await store.changes(stored.id, after_version=0) == [change_of(stored)]


async def test_one_request_id_at_once_with_two_contents_places_one_of_them(
    store: OrderStore,
) -> None:
    attempts = [
        new_order(number, request=1, customer_id="ada" if number % 2 else "bob")
        for number in range(50)
    ]
    answers = await asyncio.gather(
        *(store.place(order, lease=LEASE_FOR) for order in attempts), return_exceptions=True
    )
    [stored] = await store.list(EVERYTHING)
    for attempt, answer in zip(attempts, answers, strict=True):
        if attempt.customer_id == stored.customer_id:
            assert answer == stored
        else:
            assert isinstance(answer, RequestIdReused)


async def test_many_orders_at_once_are_all_placed(store: OrderStore) -> None:
    orders = [new_order(number) for number in range(700)]
    answers = await asyncio.gather(*(store.place(order, lease=LEASE_FOR) for order in orders))
    assert answers == orders
    assert await store.list(EVERYTHING) == orders[::-1]


@pytest.mark.parametrize("units", [0, 1, 2**53 + 1, MAX_UNITS])
async def test_amounts_are_kept_exactly(store: OrderStore, units: int) -> None:
    item = OrderItem("gold", 1, Money("JPY", units, 999_999_999))
    order = await store.place(new_order(items=(item,)), lease=LEASE_FOR)
    assert (await store.get(order.id)).total == Money("JPY", units, 999_999_999)
    assert (await store.get(order.id)).items == (item,)


async def test_items_keep_their_order(store: OrderStore) -> None:
    items = tuple(OrderItem(f"sku-{99 - n}", n + 1, Money("EUR", n)) for n in range(100))
    order = await store.place(new_order(items=items), lease=LEASE_FOR)
    assert (await store.get(order.id)).items == items


# Saving


async def test_a_saved_version_is_read_and_adds_one_change(store: OrderStore) -> None:
    placed = await store.place(new_order(), lease=LEASE_FOR)
    paid = placed.paid(NOW + SECOND)
    refunding = paid.refunding(NOW + 2 * SECOND)
    cancelled = refunding.cancelled(NOW + 3 * SECOND)
    await store.save(paid)
    await store.save(refunding, lease=LEASE_FOR)
    await store.save(cancelled)
    assert await store.get(placed.id) == cancelled
    changes = await store.changes(placed.id, after_version=0)
    assert changes == [change_of(order) for order in (placed, paid, refunding, cancelled)]
    assert [placed.at(change) for change in changes[1:]] == [paid, refunding, cancelled]


async def test_changes_begin_after_the_version_asked_for(store: OrderStore) -> None:
    placed = await store.place(new_order(), lease=LEASE_FOR)
    paid = placed.paid(NOW)
    await store.save(paid)
    assert await store.changes(placed.id, after_version=1) == [change_of(paid)]
    assert await store.changes(placed.id, after_version=2) == []
    assert await store.changes(order_id(99), after_version=0) == []


@pytest.mark.parametrize("version", [0, 1, 2, 4, 5])
async def test_only_the_next_version_is_written(store: OrderStore, version: int) -> None:
    placed = await store.place(new_order(), lease=LEASE_FOR)
    paid = placed.paid(NOW)
    await store.save(paid)
    wrong = structs.replace(paid.refunding(NOW).cancelled(NOW), version=version)
    with pytest.raises(VersionConflict) as conflict:
        await store.save(wrong)
    assert (conflict.value.order_id, conflict.value.version) == (placed.id, version)
    assert await store.get(placed.id) == paid
    assert len(await store.changes(placed.id, after_version=0)) == 2


async def test_of_changes_at_once_one_wins_and_the_others_conflict(store: OrderStore) -> None:
    placed = await store.place(new_order(), lease=LEASE_FOR)
    rivals = [placed.paid(NOW), *(placed.declined(f"no. {n}", NOW) for n in range(20))]
    answers = await asyncio.gather(*(store.save(order) for order in rivals), return_exceptions=True)
    assert [type(answer) for answer in answers if answer is not None] == [VersionConflict] * 20
    winner = rivals[answers.index(None)]
    assert await store.get(placed.id) == winner
    assert await store.changes(placed.id, after_version=1) == [change_of(winner)]


async def test_versions_at_once_are_written_one_after_the_other(store: OrderStore) -> None:
    placed = await store.place(new_order(), lease=LEASE_FOR)
    paid = placed.paid(NOW)
    refunding = paid.refunding(NOW)
    cancelled = refunding.cancelled(NOW)
    await asyncio.gather(
        store.save(paid), store.save(refunding, lease=LEASE_FOR), store.save(cancelled)
    )
    assert await store.get(placed.id) == cancelled
    versions = [change.version for change in await store.changes(placed.id, after_version=0)]
    assert versions == [1, 2, 3, 4]


async def test_an_unknown_order_is_not_found(store: OrderStore) -> None:
    with pytest.raises(OrderNotFound):
        await store.get(order_id(1))
    with pytest.raises(OrderNotFound) as missing:
        await store.save(new_order(1).paid(NOW))
    assert missing.value.order_id == order_id(1)
    assert await store.list(EVERYTHING) == []


@pytest.mark.parametrize(
    "reason",
    ["", "Kartenlimit überschritten ☹", "不足 💳", "'; DROP TABLE orders; --", '{"a": [1]}'],
)
async def test_a_decline_reason_may_be_any_text(store: OrderStore, reason: str) -> None:
    placed = await store.place(new_order(), lease=LEASE_FOR)
    declined = placed.declined(reason, NOW)
    await store.save(declined)
    assert await store.get(placed.id) == declined
    assert await store.changes(placed.id, after_version=1) == [change_of(declined)]


async def test_a_lease_is_required_exactly_while_the_order_awaits_the_gateway(
    store: OrderStore,
) -> None:
    paid = (await store.place(new_order(), lease=LEASE_FOR)).paid(NOW)
    with pytest.raises(ValueError, match="a lease is for"):
        await store.save(paid, lease=LEASE_FOR)
    await store.save(paid)
    with pytest.raises(ValueError, match="a lease is for"):
        await store.save(paid.refunding(NOW))


@pytest.mark.parametrize("lease", [timedelta(microseconds=-1), LONGEST_LEASE + MICROSECOND])
async def test_a_lease_or_delay_out_of_range_is_refused(
    store: OrderStore, lease: timedelta
) -> None:
    order = new_order()
    for write in (
        lambda: store.place(order, lease=lease),
        lambda: store.save(order, lease=lease),
        lambda: store.defer(order.id, delay=lease),
        lambda: store.lease_due(lease=lease, limit=1),
    ):
        with pytest.raises(ValueError, match=r"range|from 0 to"):
            await write()
    await store.place(order, lease=LONGEST_LEASE)


# Leasing


async def lease(
    store: OrderStore, limit: int = 10, repeated: int | None = None
) -> Sequence[LeasedOrder]:
    return list(await store.lease_due(lease=10 * SECOND, limit=limit, repeated=repeated))


async def test_an_order_is_leased_when_its_lease_ends_and_not_before(
    store: OrderStore, clock: FakeClock
) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    clock.now = LEASE - MICROSECOND
    assert await lease(store) == []
    clock.now = LEASE
    assert await lease(store) == [LeasedOrder(order, attempts=1)]
    clock.now = LEASE + 9 * SECOND
    assert await lease(store) == []
    clock.now = LEASE + 10 * SECOND
    assert await lease(store) == [LeasedOrder(order, attempts=2)]


async def test_the_longest_waiting_are_leased_first(store: OrderStore, clock: FakeClock) -> None:
    for number, waits_s in enumerate([3, 1, 4, 0, 5, 2]):
        await store.place(new_order(number), lease=LEASE_FOR - waits_s * SECOND)
    clock.now = LEASE
    first = await lease(store, limit=4)
    assert [leased.order.id for leased in first] == [order_id(n) for n in (4, 2, 0, 5)]
    rest = await lease(store, limit=4)
    assert [leased.order.id for leased in rest] == [order_id(n) for n in (1, 3)]


async def test_no_order_is_leased_to_two_callers(store: OrderStore, clock: FakeClock) -> None:
    orders = [new_order(number) for number in range(100)]
    await asyncio.gather(*(store.place(order, lease=timedelta(0)) for order in orders))
    clock.now = LEASE
    taken = await asyncio.gather(*(lease(store, limit=7) for _ in range(20)))
    ids = [leased.order.id for some in taken for leased in some]
    assert sorted(ids) == [order.id for order in orders]


async def test_an_order_that_awaits_nothing_is_never_leased(
    store: OrderStore, clock: FakeClock
) -> None:
    order = await store.place(new_order(), lease=timedelta(0))
    await store.save(order.paid(NOW))
    await store.defer(order.id, delay=timedelta(0))
    clock.now = LEASE
    assert await lease(store) == []


async def test_a_saved_version_brings_its_own_lease_and_counts_attempts_anew(
    store: OrderStore, clock: FakeClock
) -> None:
    order = await store.place(new_order(), lease=timedelta(0))
    await lease(store)
    paid = order.paid(NOW)
    await store.save(paid)
    refunding = paid.refunding(NOW)
    await store.save(refunding, lease=LEASE_FOR)
    clock.now = LEASE - SECOND
    assert await lease(store) == []
    clock.now = LEASE
    assert await lease(store) == [LeasedOrder(refunding, attempts=1)]


async def test_deferring_moves_the_lease_and_nothing_else(
    store: OrderStore, clock: FakeClock
) -> None:
    order = await store.place(new_order(), lease=timedelta(0))
    await lease(store)
    await store.defer(order.id, delay=LEASE_FOR)
    await store.defer(order_id(99), delay=LEASE_FOR)
    assert await store.get(order.id) == order
    assert await store.changes(order.id, after_version=1) == []
    clock.now = LEASE - SECOND
    assert await lease(store) == []
    clock.now = LEASE
    assert await lease(store) == [LeasedOrder(order, attempts=2)]


async def test_a_replayed_order_keeps_its_lease(store: OrderStore) -> None:
    order = await store.place(new_order(1), lease=timedelta(0))
    await store.place(new_order(2, request=1), lease=LEASE_FOR)
    assert await lease(store) == [LeasedOrder(order, attempts=1)]


async def repeat(store: OrderStore, clock: FakeClock, numbers: Sequence[int]) -> None:
    """Place orders and lease each REPEATED_ATTEMPTS times; their leases end one second apart."""
    for number in numbers:
        await store.place(new_order(number), lease=timedelta(0))
        for _ in range(REPEATED_ATTEMPTS):
            assert await store.lease_due(lease=timedelta(0), limit=1)
        await store.defer(order_id(number), delay=LONGEST_LEASE)
        clock.advance(SECOND)
    clock.advance(LONGEST_LEASE)


async def test_repeated_orders_come_behind_fresh_ones_however_long_they_are_due(
    store: OrderStore, clock: FakeClock
) -> None:
    await repeat(store, clock, [1, 2])
    clock.advance(3600 * SECOND)
    for number in (4, 3):
        await store.place(new_order(number), lease=timedelta(0))
    assert [each.order.id for each in await lease(store, limit=3)] == [
        order_id(n) for n in (3, 4, 1)
    ]
    [rest] = await lease(store, limit=3)
    assert (rest.order.id, rest.attempts) == (order_id(2), REPEATED_ATTEMPTS + 1)


@pytest.mark.parametrize(
    ("limit", "share", "taken"),
    [
        (10, None, [5, 6, 1, 2, 3, 4]),
        (10, 2, [5, 6, 1, 2]),
        (10, 0, [5, 6]),
        (3, 2, [5, 6, 1]),
        (2, 2, [5, 6]),
        (1, 1, [5]),
    ],
)
async def test_repeated_orders_take_no_more_than_their_share(
    store: OrderStore, clock: FakeClock, limit: int, share: int | None, taken: list[int]
) -> None:
    await repeat(store, clock, [1, 2, 3, 4])
    for number in (5, 6):
        await store.place(new_order(number), lease=timedelta(0))
    leased = await lease(store, limit=limit, repeated=share)
    assert [each.order.id for each in leased] == [order_id(n) for n in taken]


async def test_a_released_or_saved_order_is_fresh_again(
    store: OrderStore, clock: FakeClock
) -> None:
    await repeat(store, clock, [1, 2])
    await store.park(order_id(1), reason="stuck")
    await store.release(order_id(1))
    paid = new_order(2).paid(NOW)
    await store.save(paid)
    await store.save(paid.refunding(NOW), lease=timedelta(0))
    assert {each.order.id for each in await lease(store, repeated=0)} == {order_id(1), order_id(2)}


async def test_a_clock_set_back_by_a_day_strands_no_order(
    store: OrderStore, clock: FakeClock
) -> None:
    clock.advance(timedelta(days=1))
    await repeat(store, clock, [1])
    for number, waits_s in ((2, 30), (3, 20)):
        await store.place(new_order(number), lease=waits_s * SECOND)
    clock.now = NOW
    await store.place(new_order(4), lease=timedelta(0))
    leased = await lease(store, limit=3)
    assert [each.order.id for each in leased] == [order_id(n) for n in (4, 3, 2)]
    assert await lease(store, repeated=0) == []
    [repeated] = await lease(store)
    assert repeated.order.id == order_id(1)
    assert await lease(store) == []
    clock.advance(10 * SECOND)
    assert len(await lease(store)) == 4


async def test_a_lease_as_long_as_may_be_counts(store: OrderStore, clock: FakeClock) -> None:
    await store.place(new_order(), lease=LONGEST_LEASE)
    assert await lease(store) == []
    clock.advance(-MICROSECOND)
    assert len(await lease(store)) == 1


# The backlog


async def test_the_backlog_is_what_awaits_the_gateway_since_it_does(
    store: OrderStore, clock: FakeClock
) -> None:
    assert await store.backlog() == Backlog(orders={})

    orders = [new_order(number) for number in range(5)]
    for order in orders:
        await store.place(order, lease=LEASE_FOR)
        clock.advance(SECOND)
    clock.now = NOW + 60 * SECOND
    for order in orders[:3]:
        paid = order.paid(NOW)
        await store.save(paid)
        if order is not orders[0]:
            await store.save(paid.refunding(NOW), lease=LEASE_FOR)
            clock.advance(SECOND)
    clock.now = NOW + 70 * SECOND
    assert await store.backlog() == Backlog(
        orders={
            OrderState.PENDING_PAYMENT: Waiting(2, 67 * SECOND),
            OrderState.REFUNDING: Waiting(2, 10 * SECOND),
        },
        events=Waiting(0, None),
    )


async def test_an_order_in_the_backlog_stays_as_old_however_often_it_is_leased(
    store: OrderStore, clock: FakeClock
) -> None:
    order = await store.place(new_order(), lease=timedelta(0))
    clock.advance(SECOND)
    await lease(store)
    await store.defer(order.id, delay=LEASE_FOR)
    clock.advance(SECOND)
    backlog = await store.backlog()
    assert backlog.orders == {OrderState.PENDING_PAYMENT: Waiting(1, 2 * SECOND)}


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=-1)])
async def test_the_age_of_an_order_grows_from_0_whatever_its_replicas_clock_said(
    store: OrderStore, clock: FakeClock, ahead: timedelta
) -> None:
    await store.place(new_order(now=NOW + ahead), lease=LEASE_FOR)
    for age in (0, 1, 100):
        clock.now = NOW + age * SECOND
        backlog = await store.backlog()
        assert backlog.orders == {OrderState.PENDING_PAYMENT: Waiting(1, age * SECOND)}


async def test_no_age_is_negative_after_a_clock_was_set_back(
    store: OrderStore, clock: FakeClock
) -> None:
    for number in (1, 2):
        await store.place(new_order(number), lease=LEASE_FOR)
    await store.park(order_id(2), reason="stuck")
    clock.advance(-SECOND)
    assert (await store.backlog()).orders == {OrderState.PENDING_PAYMENT: Waiting(1, timedelta(0))}
    [parked] = await store.parked(limit=1)
    assert parked.age == timedelta(0)


# Listing


async def place_variety(store: OrderStore) -> list[Order]:
    """60 orders of 3 customers in 3 states, 5 of each millisecond; newest first."""
    orders = []
    for number in range(60):
        now = NOW + timedelta(microseconds=200 * number)
        order = new_order(number, customer_id=("ada", "bob", "cyd")[number % 3], now=now)
        await store.place(order, lease=LEASE_FOR)
        if number % 4 == 1:
            order = order.paid(now)
            await store.save(order)
        elif number % 4 == 2:
            order = order.declined("no", now)
            await store.save(order)
        orders.append(order)
    return orders[::-1]


async def test_every_filter_finds_exactly_what_matches(store: OrderStore) -> None:
    orders = await place_variety(store)
    some = [OrderState.PAID, OrderState.PAYMENT_DECLINED]
    for states in ([], [OrderState.PAID], some, [OrderState.CANCELLED], list(OrderState)):
        for customer_id in (None, "bob", "nobody"):
            for before in (None, orders[20].id, order_id(0)):
                query = OrderQuery(limit=100, before=before, customer_id=customer_id, states=states)
                assert await store.list(query) == [
                    order
                    for order in orders
                    if (not states or order.state in states)
                    and (customer_id is None or order.customer_id == customer_id)
                    and (before is None or order.id < before)
                ]


@pytest.mark.parametrize("customer_id", [None, "ada"])
@pytest.mark.parametrize("states", [(), tuple(OrderState)])
async def test_times_bound_to_the_microsecond_the_end_excluded(
    store: OrderStore, customer_id: str | None, states: tuple[OrderState, ...]
) -> None:
    orders = [
        order
        for order in await place_variety(store)
        if customer_id is None or order.customer_id == customer_id
    ]
    microsecond = timedelta(microseconds=1)
    edges = [NOW + timedelta(microseconds=200 * number) for number in (0, 7, 8, 31, 59)]
    bounds = [None, *(edge + shift * microsecond for edge in edges for shift in (-1, 0, 1))]
    for after in bounds:
        for before in (None, edges[2], edges[3] + microsecond):
            query = OrderQuery(
                limit=100,
                customer_id=customer_id,
                states=states,
                created_after=after,
                created_before=before,
            )
            assert await store.list(query) == [
                order
                for order in orders
                if (after is None or order.create_time >= after)
                and (before is None or order.create_time < before)
            ]


async def test_times_far_outside_match_all_or_nothing(store: OrderStore) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    everything = OrderQuery(limit=10, created_after=first, created_before=last)
    assert await store.list(everything) == [order]
    assert await store.list(OrderQuery(limit=10, created_before=first)) == []
    assert await store.list(OrderQuery(limit=10, created_after=last)) == []


@pytest.mark.parametrize("customer_id", [None, "ada"])
@pytest.mark.parametrize("states", [(), (OrderState.PAID,), tuple(OrderState)])
async def test_pages_neither_skip_nor_repeat_while_orders_are_added(
    store: OrderStore, customer_id: str | None, states: tuple[OrderState, ...]
) -> None:
    query = OrderQuery(limit=100, customer_id=customer_id, states=states)
    await place_variety(store)
    expected = await store.list(query)
    seen: list[Order] = []
    page = await store.list(structs.replace(query, limit=7))
    while page:
        seen += page
        later = new_order(1000 + len(seen), customer_id="ada", now=NOW + SECOND)
        await store.place(later, lease=LEASE_FOR)
        page = await store.list(structs.replace(query, limit=7, before=seen[-1].id))
    assert seen == expected


async def test_a_store_that_is_open_answers_a_ping(store: OrderStore) -> None:
    await store.ping()


async def test_a_probe_writes_and_leaves_all_orders_and_changes_as_they_are(
    store: OrderStore,
) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    await asyncio.gather(*(store.probe() for _ in range(50)), store.ping())
    await store.probe()
    assert await store.list(EVERYTHING) == [order]
    assert await store.changes(order.id, after_version=0) == [change_of(order)]
    paid = order.paid(NOW + SECOND)
    await asyncio.gather(store.probe(), store.save(paid), store.probe())
    assert await store.get(order.id) == paid


# Values that cannot be stored

NOT_TEXT = ["a\0b", "\ud800"]


def invalid_orders() -> list[Order]:
    order = new_order(3)
    [first, *others] = order.items
    return [
        *(structs.replace(order, customer_id=text) for text in NOT_TEXT),
        *(structs.replace(order, payment_token=text) for text in NOT_TEXT),
        *(
            structs.replace(order, items=(structs.replace(first, sku=text), *others))
            for text in NOT_TEXT
        ),
        structs.replace(order, version=2**63),
    ]


@pytest.mark.parametrize("invalid", invalid_orders())
async def test_an_order_with_an_invalid_value_is_refused_alone(
    store: OrderStore, invalid: Order
) -> None:
    orders = [new_order(1), invalid, new_order(2)]
    first, refused, last = await asyncio.gather(
        *(store.place(order, lease=LEASE_FOR) for order in orders), return_exceptions=True
    )
    assert (first, last) == (orders[0], orders[2])
    assert isinstance(refused, InvalidValue)
    assert await store.list(EVERYTHING) == [orders[2], orders[0]]


@pytest.mark.parametrize("text", NOT_TEXT)
async def test_listing_by_an_invalid_text_is_refused_and_the_store_goes_on(
    store: OrderStore, text: str
) -> None:
    order = await store.place(new_order(1), lease=LEASE_FOR)
    for _ in range(50):
        with pytest.raises(InvalidValue):
            await store.list(OrderQuery(limit=10, customer_id=text))
    assert await store.list(EVERYTHING) == [order], "no breaker opened, no connection is lost"


async def test_reading_with_an_out_of_range_number_is_refused_and_the_store_goes_on(
    store: OrderStore,
) -> None:
    order = await store.place(new_order(1), lease=LEASE_FOR)
    for _ in range(50):
        with pytest.raises(InvalidValue):
            await store.changes(order.id, after_version=2**63)
        with pytest.raises(InvalidValue):
            await store.list(OrderQuery(limit=2**63))
    assert await store.get(order.id) == order
