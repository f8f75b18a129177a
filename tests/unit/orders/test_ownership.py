"""A customer's own orders: another's is as if there were none, and nobody is asked about it."""

from __future__ import annotations

import pytest

from fakes.orders import new_order
from fakes.process import LONG_S, Process, World, draft
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.events.changes import ChangeHub
from orderflow_server.orders.errors import OrderNotFound
from orderflow_server.orders.order import OrderState
from orderflow_server.orders.ownership import owned
from orderflow_server.orders.watching import watch_order


def test_an_order_is_its_customers_and_that_of_who_may_see_all() -> None:
    order = new_order(customer_id="ada")
    assert owned(order, "ada") is order
    assert owned(order, None) is order
    for other in ("", "Ada", "ada ", "bob"):
        with pytest.raises(OrderNotFound):
            owned(order, other)


async def test_what_is_cancelled_is_ones_own_and_of_anothers_the_gateway_hears_nothing() -> None:
    world = World()
    process = Process(world)
    order = await process.place_order(draft(customer_id="ada"), until=Deadline.after(LONG_S))
    process.journal.clear()
    with pytest.raises(OrderNotFound):
        await process.cancel_order(order.id, until=Deadline.after(LONG_S), only_customer="bob")
    assert process.journal == []
    assert await world.store.get(order.id) == order
    cancelled = await process.cancel_order(
        order.id, until=Deadline.after(LONG_S), only_customer="ada"
    )
    assert cancelled.state is OrderState.CANCELLED


async def test_what_is_watched_is_ones_own() -> None:
    world = World()
    order = await Process(world).place_order(draft(customer_id="ada"), until=Deadline.after(LONG_S))
    hub = ChangeHub()
    for customer, sees in (("ada", True), (None, True), ("bob", False)):
        watch = watch_order(order.id, store=world.store, feed=hub, only_customer=customer)
        if sees:
            assert await anext(watch) == order
        else:
            with pytest.raises(OrderNotFound):
                await anext(watch)
        await watch.aclose()
