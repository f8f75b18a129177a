"""Checks requests against the rules in the contract (protovalidate)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf import unknown_fields
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from orderflow_server.rpc.status import InvalidRequest, Violation

MAX_VIOLATIONS = 100
"""The most that one answer names."""


class RequestValidator:
    """Refuses requests that break the contract's rules or carry fields it does not have.

    How many elements a list may have is checked first, and alone: the other rules are evaluated
    for every element, which for a megabyte of them would hold the event loop for seconds.

    The rules of a message type are compiled when it is first seen, which takes milliseconds:
    `warm_up` does it ahead of the first call.
    """

    def __init__(self, service: ServiceDescriptor) -> None:
        self._validator = protovalidate.Validator()
        self._requests = [GetMessageClass(method.input_type) for method in service.methods]
        self._max_items = {request: _max_items(request) for request in self._requests}

    def warm_up(self) -> None:
        for request in self._requests:
            self._validator.collect_violations(request())

    def check(self, request: Message) -> None:
        """Returns when the request keeps to every rule.

        Raises:
            InvalidRequest: Names what is wrong, `MAX_VIOLATIONS` at most.
        """
        violations = list(self._too_many_items(request))
        if not violations:
            violations = [
                Violation(_path(violation.proto), violation.proto.message)
                for violation in self._validator.collect_violations(request)
            ]
            if _has_unknown_fields(request):
                violations += islice(_unknown_fields(request, ""), MAX_VIOLATIONS)
        if violations:
            raise InvalidRequest(violations[:MAX_VIOLATIONS])

    def _too_many_items(self, request: Message) -> Iterator[Violation]:
        for field, most in self._max_items[type(request)]:
            if len(getattr(request, field)) > most:
                yield Violation(field, f"must contain no more than {most} item(s)")


def _max_items(request: type[Message]) -> Sequence[tuple[str, int]]:
    """The lists directly in the request, with the longest that each may be."""
    limits = []
    for field in request.DESCRIPTOR.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field].repeated
        if rules.HasField("max_items"):
            limits.append((field.name, rules.max_items))
    return limits


def _path(violation: Any) -> str:
    """`items[2].quantity`; the message as a whole has an empty path."""
    path = ""
    for element in violation.field.elements if violation.field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path


def _has_unknown_fields(request: Message) -> bool:
    # A fifth of the cost of walking the message, which only the guilty pay.
    known = type(request)()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    return known.ByteSize() != request.ByteSize()


def _unknown_fields(message: Message, path: str) -> Iterator[Violation]:
    # The stub leaves out __iter__.
    fields: Iterable[Any] = unknown_fields.UnknownFieldSet(message)  # type: ignore[assignment]
    for unknown in fields:
        yield Violation(
            path, f"{message.DESCRIPTOR.full_name} has no field with number {unknown.field_number}"
        )
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        name = f"{path}.{field.name}" if path else field.name
        if field.is_repeated:
            for index, element in enumerate(value):
                yield from _unknown_fields(element, f"{name}[{index}]")
        else:
            yield from _unknown_fields(value, name)
