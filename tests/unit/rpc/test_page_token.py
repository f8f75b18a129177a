"""Page tokens: they bring back what was put in, and nothing else is one."""

from __future__ import annotations

import base64
from collections.abc import Callable
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from fakes.orders import order_id
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.rpc import page_token
from orderflow_server.rpc.status import InvalidRequest

STATES = [state for state in order_pb2.OrderState.values() if state]
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

timestamps = st.builds(Timestamp, seconds=st.integers(0, 2**33), nanos=st.integers(0, 999_999_999))
requests = st.builds(
    pb.ListOrdersRequest,
    customer_id=st.text("abc", max_size=3),
    states=st.lists(st.sampled_from(STATES), unique=True),
    created_after=st.none() | timestamps,
    created_before=st.none() | timestamps,
    page_size=st.integers(0, 1000),
)


def asking(request: pb.ListOrdersRequest, token: str) -> pb.ListOrdersRequest:
    """The request for the page that the token stands for."""
    following = pb.ListOrdersRequest()
    following.CopyFrom(request)
    following.page_token = token
    return following


def refused(request: pb.ListOrdersRequest) -> bool:
    """Whether it is refused, and the answer names nothing but the page_token."""
    try:
        page_token.decode(request)
    except InvalidRequest as error:
        return [violation.field for violation in error.violations] == ["page_token"]
    return False


FULL = pb.ListOrdersRequest(
    customer_id="ada",
    states=[order_pb2.ORDER_STATE_PAID, order_pb2.ORDER_STATE_CANCELLED],
    created_after=Timestamp(seconds=1),
    created_before=Timestamp(seconds=2),
)
LAST = order_id(7)
TOKEN = page_token.encode(LAST, FULL)


@given(st.uuids(), requests, st.integers(0, 1000))
def test_a_token_brings_back_the_id_for_the_same_filters_at_any_page_size(
    last: UUID, request: pb.ListOrdersRequest, page_size: int
) -> None:
    following = asking(request, page_token.encode(last, request))
    following.page_size = page_size
    assert page_token.decode(following) == last
    # The next page's token does not depend on the token that led there.
    assert page_token.encode(last, following) == following.page_token


def test_without_a_token_it_is_the_first_page() -> None:
    assert page_token.decode(FULL) is None


@given(st.uuids(), requests)
def test_a_token_is_short_and_needs_no_escaping_in_a_url(
    last: UUID, request: pb.ListOrdersRequest
) -> None:
    token = page_token.encode(last, request)
    assert set(token) <= set(CHARACTERS)
    assert len(token) == 32


def change(apply: Callable[[pb.ListOrdersRequest], object]) -> pb.ListOrdersRequest:
    request = asking(FULL, TOKEN)
    apply(request)
    return request


def test_a_token_belongs_to_one_query() -> None:
    assert page_token.decode(asking(FULL, TOKEN)) == LAST
    changed: dict[str, Callable[[pb.ListOrdersRequest], object]] = {
        "another customer": lambda r: setattr(r, "customer_id", "bob"),
        "any customer": lambda r: r.ClearField("customer_id"),
        "a state less": lambda r: r.states.pop(),
        "a state more": lambda r: r.states.append(order_pb2.ORDER_STATE_REFUNDING),
        "any state": lambda r: r.ClearField("states"),
        "later": lambda r: setattr(r.created_after, "nanos", 1),
        "from the first": lambda r: r.ClearField("created_after"),
        "from the epoch": lambda r: r.created_after.Clear(),
        "earlier": lambda r: setattr(r.created_before, "seconds", 1),
        "to the last": lambda r: r.ClearField("created_before"),
    }
    assert [name for name, apply in changed.items() if not refused(change(apply))] == []


@given(requests, requests)
def test_no_other_query_s_token_is_taken(
    one: pb.ListOrdersRequest, other: pb.ListOrdersRequest
) -> None:
    one.page_size = other.page_size = 0
    token = page_token.encode(LAST, one)
    assert refused(asking(other, token)) == (one != other)


def test_no_flipped_bit_goes_unnoticed() -> None:
    raw = base64.urlsafe_b64decode(TOKEN)
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refused(asking(FULL, base64.urlsafe_b64encode(flipped).decode())), bit


def test_no_changed_character_goes_unnoticed() -> None:
    for place, was in enumerate(TOKEN):
        for character in CHARACTERS + "+/=. \n":
            if character != was:
                token = TOKEN[:place] + character + TOKEN[place + 1 :]
                assert refused(asking(FULL, token)), (place, character)


@given(st.text(min_size=1, max_size=256) | st.text(CHARACTERS, min_size=1, max_size=64))
@example("=")
@example("A")
@example("====")
@example("A" * 32)
@example(TOKEN[:-1])
@example(TOKEN[1:])
@example(TOKEN + "A")
@example(TOKEN + "=")
@example(TOKEN + "\n")
@example(TOKEN + TOKEN)
@example(" " + TOKEN)
@example(TOKEN[:22])
@example("tökén")
def test_garbage_is_refused_by_name(garbage: str) -> None:
    assert refused(asking(FULL, garbage))


@pytest.mark.parametrize("other", [0, 2**128 - 1])
def test_the_digest_of_one_id_does_not_vouch_for_another(other: int) -> None:
    digest = base64.urlsafe_b64decode(TOKEN)[16:]
    forged = base64.urlsafe_b64encode(UUID(int=other).bytes + digest).decode()
    assert refused(asking(FULL, forged))
