"""The conventional alternative: FastAPI, SQLAlchemy's asyncio ORM over asyncpg, httpx.

`POST /orders` does what CreateOrder does, in the way most would write it: one transaction inserts
the order, its items and its event, the payment gateway is called over a pooled HTTP client under
an idempotency key, and a second transaction makes the order PAID and inserts that event. A request
id that is known is refused with 409. Nothing is slowed down, and much is left out that the service
does for each call: log lines, metrics, spans, deadlines, admission, retries, breakers.

    python bench/peers/conventional.py postgresql://... http://127.0.0.1:8080
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import DateTime, ForeignKey, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

sys.path.append(str(Path(__file__).parent.parent.parent))

from bench.peers.serving import serve

CONNECTIONS = 16
"""To PostgreSQL, all kept: SQLAlchemy keeps 5 by default, and opens and closes 10 more."""

_NANOS = 1_000_000_000


class Base(DeclarativeBase):
    pass


class OrderRow(Base):
    __tablename__ = "orders"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    request_id: Mapped[uuid.UUID] = mapped_column(unique=True)
    customer_id: Mapped[str] = mapped_column(index=True)
    currency_code: Mapped[str]
    total_units: Mapped[int]
    total_nanos: Mapped[int]
    payment_token: Mapped[str]
    state: Mapped[str]
    version: Mapped[int] = mapped_column()  # an object already: it is named below
    create_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    update_time: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    items: Mapped[list[ItemRow]] = relationship(order_by="ItemRow.position")

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  SQLAlchemy's way


class ItemRow(Base):
    __tablename__ = "order_items"

    order_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    quantity: Mapped[int]
    price_units: Mapped[int]
    price_nanos: Mapped[int]


class EventRow(Base):
    __tablename__ = "events"

    order_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    time: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Money(BaseModel):
    currency_code: str = Field(pattern="^[A-Z]{3}$")
    units: int = Field(ge=0)
    nanos: int = Field(ge=0, lt=_NANOS)


class Item(BaseModel):
    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1000)
    unit_price: Money


class NewOrder(BaseModel):
    request_id: uuid.UUID
    customer_id: str = Field(min_length=1, max_length=64)
    items: list[Item] = Field(min_length=1, max_length=100)
    payment_token: str = Field(min_length=1, max_length=128)


class Order(BaseModel):
    id: uuid.UUID
    customer_id: str
    items: list[Item]
    total: Money
    state: str
    create_time: datetime
    update_time: datetime


def total_of(items: list[Item]) -> Money:
    nanos = sum(
        (item.unit_price.units * _NANOS + item.unit_price.nanos) * item.quantity for item in items
    )
    units, nanos = divmod(nanos, _NANOS)
    return Money(currency_code=items[0].unit_price.currency_code, units=units, nanos=nanos)


def make_app(database: str, gateway: str) -> FastAPI:
    engine = create_async_engine(
        database.replace("postgresql://", "postgresql+asyncpg://"),
        pool_size=CONNECTIONS,
        max_overflow=0,
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    payments = httpx.AsyncClient(base_url=gateway, timeout=4.0)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await payments.aclose()
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=201)
    async def create(new: NewOrder) -> Order:
        total = total_of(new.items)
        now = datetime.now(UTC)
        row = OrderRow(
            id=uuid.uuid4(),
            request_id=new.request_id,
            customer_id=new.customer_id,
            currency_code=total.currency_code,
            total_units=total.units,
            total_nanos=total.nanos,
            payment_token=new.payment_token,
            state="PENDING_PAYMENT",
            create_time=now,
            update_time=now,
            items=[
                ItemRow(
                    position=position,
                    sku=item.sku,
                    quantity=item.quantity,
                    price_units=item.unit_price.units,
                    price_nanos=item.unit_price.nanos,
                )
                for position, item in enumerate(new.items)
            ],
        )
        try:
            async with sessions.begin() as session:
                session.add(row)
                await session.flush()
                await add_event(session, row)
        except IntegrityError as error:
            raise HTTPException(409, "the request id is known") from error
        response = await payments.post(
            "/charges",
            json={
                "idempotency_key": str(row.id),
                "amount": total.model_dump(),
                "payment_token": new.payment_token,
            },
        )
        response.raise_for_status()
        async with sessions.begin() as session:
            session.add(row)
            row.state = "PAID"
            row.update_time = datetime.now(UTC)
            await session.flush()
            await add_event(session, row)
        return Order(
            id=row.id,
            customer_id=row.customer_id,
            items=new.items,
            total=total,
            state=row.state,
            create_time=row.create_time,
            update_time=row.update_time,
        )

    return app


async def add_event(session: AsyncSession, row: OrderRow) -> None:
    event = {"version": row.version, "state": row.state, "time": row.update_time}
    await session.execute(insert(EventRow).values(order_id=row.id, **event))


def spare_httpcore_a_search() -> None:
    """Says once that sniffio is not installed, where that is so.

    httpcore 1.0 tries to import it several times in each request, and Python searches the disk
    each time: a millisecond an order that would be nobody's fault but this environment's.
    """
    if find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # Python's way to say so


if __name__ == "__main__":
    spare_httpcore_a_search()
    serve(make_app(*sys.argv[1:3]))
