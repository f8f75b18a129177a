from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from orderflow.payments.v1 import payment_gateway_pb2, payment_simulator_pb2
from orderflow.resilience.v1 import policy_pb2
from orderflow.v1 import order_service_pb2
from orderflow_client.contract import ContractError, contracts
from orderflow_client.resilience.events import Criticality
from orderflow_client.resilience.hedge import HedgePolicy
from orderflow_client.resilience.retry import RetryPolicy

IDEMPOTENT = descriptor_pb2.MethodOptions.IDEMPOTENT
NO_SIDE_EFFECTS = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
ORDERS = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]
GATEWAY = payment_gateway_pb2.DESCRIPTOR.services_by_name["PaymentGateway"]
SIMULATOR = payment_simulator_pb2.DESCRIPTOR.services_by_name["PaymentSimulatorService"]


def test_policies_are_read_from_the_descriptors() -> None:
    create = contracts(ORDERS)["/orderflow.v1.OrderService/CreateOrder"]
    assert create.timeout_s == 10
    assert create.retryable
    assert create.retry == RetryPolicy(
        max_attempts=5,
        initial_backoff_s=0.01,
        max_backoff_s=1.0,
        backoff_multiplier=2.0,
        attempt_timeout_s=None,
    )
    assert not create.request_streaming
    assert not create.response_streaming


def test_hedging_and_criticality_are_read_too() -> None:
    get = contracts(ORDERS)["/orderflow.v1.OrderService/GetOrder"]
    assert get.hedging == HedgePolicy(max_attempts=2, delay_s=None)
    assert get.criticality is Criticality.DEFAULT
    create = contracts(ORDERS)["/orderflow.v1.OrderService/CreateOrder"]
    assert create.hedging is None
    assert create.criticality is Criticality.CRITICAL


def test_a_method_knows_its_names() -> None:
    get = contracts(ORDERS)["/orderflow.v1.OrderService/GetOrder"]
    assert (get.service, get.name) == ("orderflow.v1.OrderService", "GetOrder")


@pytest.mark.parametrize("service", [ORDERS, GATEWAY, SIMULATOR])
def test_nothing_of_ours_is_repeated_that_must_not_be(service: ServiceDescriptor) -> None:
    for method in contracts(service).values():
        assert method.retryable or (method.retry is None and method.hedging is None)


def test_a_stream_is_known_as_one() -> None:
    watch = contracts(ORDERS)["/orderflow.v1.OrderService/WatchOrder"]
    assert watch.response_streaming
    assert watch.retry is None
    assert watch.timeout_s == 3600


def test_several_services_make_one_contract() -> None:
    both = contracts(ORDERS, GATEWAY)
    assert len(both) == len(ORDERS.methods) + len(GATEWAY.methods)
    charge = both["/orderflow.payments.v1.PaymentGateway/Charge"]
    assert charge.retry is not None
    assert charge.retry.attempt_timeout_s == 1


def service_with(
    change: Callable[[descriptor_pb2.MethodDescriptorProto, policy_pb2.Policy], None],
) -> ServiceDescriptor:
    """A service with one method, sound but for `change`."""
    policy = policy_pb2.Policy()
    policy.timeout.FromMilliseconds(500)
    policy.retry.max_attempts = 3
    policy.retry.initial_backoff.FromMilliseconds(10)
    policy.retry.max_backoff.FromMilliseconds(100)
    policy.retry.backoff_multiplier = 2
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    file.message_type.add(name="M")
    method = file.service.add(name="S").method.add(name="Do", input_type=".t.M", output_type=".t.M")
    method.options.idempotency_level = IDEMPOTENT
    change(method, policy)
    method.options.Extensions[policy_pb2.policy].CopyFrom(policy)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("t.S")


def test_a_method_without_a_policy_has_no_timeout_and_no_retries() -> None:
    method = contracts(service_with(lambda method, policy: policy.Clear()))["/t.S/Do"]
    assert method.timeout_s is None
    assert method.retry is None
    assert method.hedging is None
    assert method.criticality is Criticality.DEFAULT
    assert method.retryable


def test_a_hedging_delay_may_be_given() -> None:
    def hedged(method: descriptor_pb2.MethodDescriptorProto, policy: policy_pb2.Policy) -> None:
        method.options.idempotency_level = NO_SIDE_EFFECTS
        policy.hedging.max_attempts = 3
        policy.hedging.delay.FromMilliseconds(20)

    hedging = contracts(service_with(hedged))["/t.S/Do"].hedging
    assert hedging == HedgePolicy(max_attempts=3, delay_s=0.02)


def test_the_idempotency_level_alone_says_whether_repeating_is_safe() -> None:
    def unsafe(method: descriptor_pb2.MethodDescriptorProto, policy: policy_pb2.Policy) -> None:
        method.options.ClearField("idempotency_level")
        policy.ClearField("retry")

    assert not contracts(service_with(unsafe))["/t.S/Do"].retryable


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda method, _: method.options.ClearField("idempotency_level"), "IDEMPOTENT"),
        (lambda method, _: setattr(method, "server_streaming", True), "stream"),
        (lambda method, _: setattr(method, "client_streaming", True), "stream"),
        (lambda _, policy: setattr(policy.retry, "max_attempts", 1), "max_attempts"),
        (lambda _, policy: policy.retry.ClearField("initial_backoff"), "backoff"),
        (lambda _, policy: policy.retry.ClearField("backoff_multiplier"), "multiplier"),
        (lambda _, policy: policy.retry.attempt_timeout.SetInParent(), "attempt_timeout"),
        (lambda _, policy: policy.timeout.FromMilliseconds(-1), "timeout"),
        (lambda _, policy: policy.timeout.FromMilliseconds(0), "timeout"),
        (lambda _, policy: policy.retry.attempt_timeout.FromMilliseconds(500), "attempt_timeout"),
        (lambda _, policy: setattr(policy, "criticality", 9), "9 is not a valid Criticality"),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused(
    change: Callable[[descriptor_pb2.MethodDescriptorProto, policy_pb2.Policy], None],
    complaint: str,
) -> None:
    with pytest.raises(ContractError, match=f"/t.S/Do: .*{complaint}"):
        contracts(service_with(change))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda method, _: method.options.ClearField("idempotency_level"), "NO_SIDE_EFFECTS"),
        (lambda method, _: set_level(method, IDEMPOTENT), "NO_SIDE_EFFECTS"),
        (lambda method, _: setattr(method, "server_streaming", True), "stream"),
        (lambda method, _: setattr(method, "client_streaming", True), "stream"),
        (lambda _, policy: setattr(policy.hedging, "max_attempts", 1), "max_attempts"),
        (lambda _, policy: policy.hedging.delay.FromMilliseconds(-1), "delay"),
        (lambda _, policy: policy.hedging.delay.FromMilliseconds(500), "delay"),
    ],
)
def test_hedging_that_would_do_harm_or_nothing_is_refused(
    change: Callable[[descriptor_pb2.MethodDescriptorProto, policy_pb2.Policy], None],
    complaint: str,
) -> None:
    def hedged(method: descriptor_pb2.MethodDescriptorProto, policy: policy_pb2.Policy) -> None:
        set_level(method, NO_SIDE_EFFECTS)
        policy.ClearField("retry")
        policy.hedging.max_attempts = 2
        change(method, policy)

    with pytest.raises(ContractError, match=f"/t.S/Do: .*{complaint}"):
        contracts(service_with(hedged))


def set_level(
    method: descriptor_pb2.MethodDescriptorProto,
    level: descriptor_pb2.MethodOptions.IdempotencyLevel.ValueType,
) -> None:
    method.options.idempotency_level = level
