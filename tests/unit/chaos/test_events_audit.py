from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from orderflow_server.chaos.events_audit import EventsAudit, audit_events


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"a": [1, 2, 3], "b": [1]}, EventsAudit()),
        ({"a": [1, 2, 3]}, EventsAudit(lost=["b"])),
        ({"a": [1, 3], "b": [1]}, EventsAudit(lost=["a"])),
        ({"a": [1, 2, 3, 2], "b": [1]}, EventsAudit(twice=["a"])),
        ({"a": [1, 3, 2], "b": [1]}, EventsAudit(disordered=["a"])),
        ({"a": [1, 2, 3, 4], "b": [1]}, EventsAudit(unknown=["a"])),
        ({"a": [1, 2, 3], "b": [1], "c": [1]}, EventsAudit(unknown=["c"])),
    ],
)
def test_each_change_of_each_order_should_come_once_and_in_its_order(
    seen: Mapping[str, Sequence[int]], expected: EventsAudit
) -> None:
    assert audit_events(versions={"a": 3, "b": 1}, seen=seen) == expected
