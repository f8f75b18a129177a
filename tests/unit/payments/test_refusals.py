"""Refusals of one order are its own; refusals of many are the gateway's."""

from __future__ import annotations

from uuid import UUID

import grpc
import pytest

from orderflow_server.payments.refusals import (
    ANSWERS_TO_END,
    WIDESPREAD_ORDERS,
    WINDOW_S,
    RefusalsWidespread,
    RefusalWatch,
)

CODE = grpc.StatusCode.UNIMPLEMENTED


class Watched:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.events: list[RefusalsWidespread] = []
        self.watch = RefusalWatch(self.events.append, clock=lambda: self.now_s)

    def refuse(self, *numbers: int) -> None:
        for number in numbers:
            self.watch.refused(UUID(int=number), CODE)

    def answer(self, count: int) -> None:
        for _ in range(count):
            self.watch.answered()


@pytest.fixture
def it() -> Watched:
    return Watched()


def blamed(it: Watched) -> bool:
    return it.watch.blames_orders


def widespread(it: Watched) -> Watched:
    it.refuse(*range(WIDESPREAD_ORDERS))
    assert it.watch.widespread
    return it


def test_one_order_refused_again_and_again_is_to_blame(it: Watched) -> None:
    it.refuse(*[1] * 100)
    assert it.watch.blames_orders
    assert it.watch.pause_left_s == 0
    assert it.events == []


def test_many_orders_refused_within_seconds_are_not(it: Watched) -> None:
    it.refuse(*range(WIDESPREAD_ORDERS - 1))
    assert blamed(it)
    it.refuse(99)
    assert not blamed(it)
    assert it.watch.pause_left_s > 0
    assert it.events == [RefusalsWidespread(True, CODE)]


def test_the_same_number_over_a_longer_time_is_the_orders_own(it: Watched) -> None:
    for number in range(3 * WIDESPREAD_ORDERS):
        it.refuse(number)
        it.now_s += WINDOW_S / (WIDESPREAD_ORDERS - 1)
    assert it.watch.blames_orders


def test_a_few_refused_among_many_answered_are_the_orders_own(it: Watched) -> None:
    it.answer(100)
    it.refuse(*range(WIDESPREAD_ORDERS + 1))
    assert it.watch.blames_orders


def test_it_ends_after_several_answers_in_a_row(it: Watched) -> None:
    widespread(it)
    it.answer(ANSWERS_TO_END - 1)
    it.refuse(1)
    it.answer(ANSWERS_TO_END - 1)
    assert it.events[-1:] != [RefusalsWidespread(False, CODE)]
    it.answer(1)
    assert not it.watch.widespread
    assert it.watch.pause_left_s == 0
    assert it.events[-1] == RefusalsWidespread(False, CODE)


def test_for_a_while_after_it_no_order_is_blamed(it: Watched) -> None:
    widespread(it).answer(ANSWERS_TO_END)
    assert not blamed(it)
    it.now_s += WINDOW_S
    assert blamed(it)


def test_pauses_grow_with_each_refusal_that_follows_one(it: Watched) -> None:
    widespread(it)
    pauses_s = []
    for _ in range(8):
        pauses_s.append(it.watch.pause_left_s)
        it.refuse(2, 3)  # Within one pause: it grows once.
        it.now_s += it.watch.pause_left_s
        it.refuse(1)
    assert pauses_s == [1, 2, 4, 8, 16, 30, 30, 30]


def test_an_answer_ends_the_pause_so_that_the_next_order_is_asked_about(it: Watched) -> None:
    widespread(it).answer(1)
    assert it.watch.pause_left_s == 0
    assert it.watch.widespread
