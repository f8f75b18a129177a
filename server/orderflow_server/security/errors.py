"""Why a caller is refused, as types.

    AccessError
    ├── TokenMissing      a token is asked for and there is none
    ├── TokenInvalid      it is no token of ours, or for somebody else
    ├── TokenExpired      it was one
    ├── RoleMissing       the method is not for the caller's roles
    └── OtherCustomer     a customer asks for what is another's

None of the texts repeats anything of a token: callers see them, and logs keep them.
"""

from __future__ import annotations


class AccessError(Exception):
    """A caller is refused."""


class TokenMissing(AccessError):
    def __init__(self) -> None:
        super().__init__("a token is needed: metadata 'authorization: Bearer ...'")


class TokenInvalid(AccessError):
    """The text says what is wrong with it."""


class TokenExpired(AccessError):
    def __init__(self) -> None:
        super().__init__("the token has expired")


class RoleMissing(AccessError):
    def __init__(self) -> None:
        super().__init__("none of the caller's roles may call this method")


class OtherCustomer(AccessError):
    def __init__(self) -> None:
        super().__init__("a customer sees and places its own orders only")
