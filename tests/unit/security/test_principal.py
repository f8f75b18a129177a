"""What somebody is in a call, by the roles that the method asks for."""

from __future__ import annotations

import pytest

from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.rpc.access import roles_by_method
from orderflow_server.security.principal import Identity, Role, current_principal

CUSTOMER, AUDITOR, OPERATOR = Role.CUSTOMER, Role.AUDITOR, Role.OPERATOR


@pytest.mark.parametrize(
    ("granted_by", "only_customer"),
    [
        ({CUSTOMER}, "alice"),
        ({AUDITOR}, None),
        ({OPERATOR}, None),
        ({CUSTOMER, AUDITOR}, None),
        ({CUSTOMER, OPERATOR}, None),
    ],
)
def test_who_is_let_in_only_as_a_customer_sees_its_own_orders(
    granted_by: set[Role], only_customer: str | None
) -> None:
    identity = Identity("alice", frozenset(Role))
    principal = identity.principal(frozenset(granted_by), trusted=False)
    assert principal.name == "alice"
    assert principal.only_customer == only_customer


def test_operators_say_how_critical_their_calls_are_and_others_where_all_may() -> None:
    for role in Role:
        identity = Identity("x", frozenset({role}))
        assert identity.principal(identity.roles, trusted=False).trusted is (role is OPERATOR)
        assert identity.principal(identity.roles, trusted=True).trusted


def test_code_that_nobody_called_is_nobodys() -> None:
    with pytest.raises(LookupError):
        current_principal.get()


def test_the_contract_says_of_every_method_who_may_call_it() -> None:
    service = pb.DESCRIPTOR.services_by_name["OrderService"]
    declared = roles_by_method(service)
    assert declared.keys() == {f"/{service.full_name}/{name}" for name in service.methods_by_name}
    assert all(declared.values())
    assert AUDITOR not in declared["/orderflow.v1.OrderService/CancelOrder"]
