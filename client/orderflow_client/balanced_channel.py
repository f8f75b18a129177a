"""Several channels that are used as one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Container, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from orderflow_client.last_resort import LastResort

_Connectivity = grpc.ChannelConnectivity
_FROM_READY_TO_CLOSED = (
    _Connectivity.READY,
    _Connectivity.CONNECTING,
    _Connectivity.IDLE,
    _Connectivity.TRANSIENT_FAILURE,
    _Connectivity.SHUTDOWN,
)


Interceptors = Sequence[grpc.aio.ClientInterceptor]


class BalancedChannel(grpc.aio.Channel):
    """Calls take turns among channels to the same servers, each with connections of its own.

    A channel that asks its servers for their health sends nothing to one that is not SERVING, and
    fails at once when none is. That is too much: a server that is about to stop still answers, one
    whose database is down says so, and behind a proxy the health is that of a single server of
    many. So health is a preference: when no server is healthy, attempts go to any.

    Args:
        open_one: Opens one of the channels, with these as its innermost interceptors.
        count: How many there are.
        regardless: A channel to the same servers that does not ask for their health, and has no
            interceptors.
        asked: The methods, by their names on the wire, for which a server is chosen by its health.
            Others are called regardless: what asks for a server's health, above all.
    """

    def __init__(
        self,
        open_one: Callable[[Interceptors], grpc.aio.Channel],
        count: int,
        *,
        regardless: grpc.aio.Channel,
        asked: Container[str],
    ) -> None:
        self._regardless = regardless
        self._called_regardless: dict[str, Callable[..., Any]] = {}
        self._channels: list[grpc.aio.Channel] = []
        for _ in range(count):
            last_resort = LastResort(asked, self._called_regardless)
            channel = open_one(last_resort.interceptors)
            last_resort.of(channel)
            self._channels.append(channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        every = [*self._channels, self._regardless]
        await asyncio.gather(*(channel.close(grace) for channel in every))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """That of the channel which is the least ready: any may get the next call."""
        states = [channel.get_state(try_to_connect) for channel in self._channels]
        return max(states, key=_FROM_READY_TO_CLOSED.index)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.get_state() is last_observed_state:
            changes = [
                asyncio.ensure_future(channel.wait_for_state_change(channel.get_state()))
                for channel in self._channels
            ]
            try:
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()

    async def channel_ready(self) -> None:
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable("unary_unary", method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable("unary_stream", method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable("stream_unary", method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable("stream_stream", method, *args, **kwargs)

    def _callable(self, arity: str, method: str, *args: Any, **kwargs: Any) -> Any:
        def on(channel: grpc.aio.Channel) -> Any:
            return getattr(channel, arity)(method, *args, **kwargs)

        self._called_regardless[method] = on(self._regardless)
        if len(self._channels) == 1:
            return on(self._channels[0])
        turns = itertools.cycle([on(channel) for channel in self._channels])

        def call(*args: Any, **kwargs: Any) -> Any:
            return next(turns)(*args, **kwargs)

        return call
