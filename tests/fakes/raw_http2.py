"""An HTTP/2 client that keeps to no rule but those its test keeps: frames, as bytes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x3, 0x4


@dataclass(frozen=True)
class Frame:
    type: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class RawHttp2:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, type_: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.writer.write(
            len(payload).to_bytes(3) + bytes([type_, flags]) + stream.to_bytes(4) + payload
        )
        await self.writer.drain()

    async def call(
        self, stream: int, path: str, message: bytes, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Begins a call with one message, and says that there are no more."""
        await self.send(HEADERS, END_HEADERS, stream, block(path, headers))
        framed = b"\0" + len(message).to_bytes(4) + message
        await self.send(DATA, END_STREAM, stream, framed)

    async def frames(self) -> AsyncIterator[Frame]:
        """What the server sends, until it hangs up."""
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3]))
                yield Frame(head[3], head[4], int.from_bytes(head[5:9]), payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def first(self, *types: int) -> Frame | None:
        """The next frame of one of these types; None: the server has hung up."""
        async for frame in self.frames():
            if frame.type in types:
                return frame
        return None


@asynccontextmanager
async def raw_http2(
    address: str, settings: Mapping[int, int] | None = None
) -> AsyncIterator[RawHttp2]:
    """Connected, and the settings sent."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(PREFACE)
        connection = RawHttp2(reader, writer)
        pairs = b"".join(struct.pack(">HI", *pair) for pair in (settings or {}).items())
        await connection.send(SETTINGS, 0, 0, pairs)
        yield connection
    finally:
        writer.close()


def block(path: str, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call, in HPACK without any compression."""
    standard = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    return b"".join(literal(name, value) for name, value in [*standard, *headers])


def literal(name: str, value: str) -> bytes:
    """A header that is not to be remembered."""
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, length = len(data) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + data


def remembered(name: str, value: str) -> bytes:
    """A header that goes into the peer's table, where it is the first: 62."""
    return b"\x40" + _text(name) + _text(value)


def indexed(number: int) -> bytes:
    """A header of the peer's table."""
    return bytes([0x80 | number])
