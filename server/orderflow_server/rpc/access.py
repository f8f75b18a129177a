"""Who may call which method, as the contract says."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from orderflow.security.v1 import access_pb2
from orderflow_server.security.principal import Role

_PREFIX = "ROLE_"


def roles_by_method(service: ServiceDescriptor) -> Mapping[str, frozenset[Role]]:
    """The roles that may call each method, by its name on the wire."""
    return {
        f"/{service.full_name}/{method.name}": frozenset(map(_role, _declared(method)))
        for method in service.methods
    }


def _declared(method: MethodDescriptor) -> list[access_pb2.Role.ValueType]:
    return list(method.GetOptions().Extensions[access_pb2.access].roles)


def _role(number: access_pb2.Role.ValueType) -> Role:
    return Role(access_pb2.Role.Name(number).removeprefix(_PREFIX).lower())
