"""The cases: four arities, the kinds of handler each can have, the ways a call can end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a handler is written.

    Attributes:
        COROUTINE: An async function; a stream of requests is iterated.
        GENERATOR: An async generator function.
        CONTEXT: An async function that calls `context.read()` and `context.write()`.
        PLAIN: A function or generator function that runs in a thread.
    """

    COROUTINE = "coroutine"
    GENERATOR = "generator"
    CONTEXT = "context"
    PLAIN = "plain"


class Ending(StrEnum):
    """How a call ends.

    Attributes:
        CANCEL: The caller cancels while the handler waits for something.
        ABANDONED: The caller goes away while the handler is about to send the next message.
    """

    RETURN = "return"
    ABORT = "abort"
    ABORT_WITH_STATUS = "abort_with_status"
    EXCEPTION = "exception"
    DEADLINE = "deadline"
    CANCEL = "cancel"
    ABANDONED = "abandoned"


KINDS = {
    "unary_unary": [Kind.COROUTINE, Kind.PLAIN],
    "unary_stream": [Kind.GENERATOR, Kind.CONTEXT, Kind.PLAIN],
    "stream_unary": [Kind.COROUTINE, Kind.CONTEXT, Kind.PLAIN],
    "stream_stream": [Kind.GENERATOR, Kind.CONTEXT, Kind.PLAIN],
}


@dataclass(frozen=True, slots=True)
class Case:
    arity: str
    kind: Kind
    ending: Ending

    @property
    def request_streaming(self) -> bool:
        return self.arity.startswith("stream_")

    @property
    def response_streaming(self) -> bool:
        return self.arity.endswith("_stream")

    def __str__(self) -> str:
        return f"{self.arity}-{self.kind}-{self.ending}"


def _cases() -> Iterator[Case]:
    for arity, kinds in KINDS.items():
        for kind in kinds:
            for ending in Ending:
                case = Case(arity, kind, ending)
                if ending is Ending.ABANDONED and not case.response_streaming:
                    continue
                if ending is Ending.ABORT_WITH_STATUS and kind is Kind.PLAIN:
                    # The context that gRPC gives to a plain function has no such method.
                    continue
                yield case


CASES = list(_cases())
