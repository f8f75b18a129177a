"""What the domain's values are made of."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """Equal to another when all fields are equal, and never changed.

    A frozen dataclass would do the same. But ten values are made for each order, and each would
    take several times as long: of a CreateOrder's CPU that was a twentieth. `gc=False`: a value is
    never part of a cycle, and the garbage collector need not look at it.
    """

    secret: ClassVar[frozenset[str]] = frozenset()
    """Fields that are kept out of `repr`, and so of logs."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What `rich` prints instead, without being asked to."""
        shown = (name for name in self.__struct_fields__ if name not in self.secret)
        return [(name, getattr(self, name)) for name in shown]
