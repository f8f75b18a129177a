from __future__ import annotations

from orderflow_server.chaos.recording import Sample
from orderflow_server.chaos.sampling import read_sample

METRICS = """\
# HELP orderflow_breaker_state 1 for the state that the breaker is in, 0 for the others.
# TYPE orderflow_breaker_state gauge
orderflow_breaker_state{breaker="gw:1/orderflow.payments.v1.PaymentGateway",state="closed"} 0.0
orderflow_breaker_state{breaker="gw:1/orderflow.payments.v1.PaymentGateway",state="open"} 1.0
orderflow_breaker_state{breaker="store",state="half_open"} 1.0
grpc_client_attempts_total{grpc_code="OK",grpc_method="Charge",\
grpc_service="orderflow.payments.v1.PaymentGateway"} 5.0
grpc_client_attempts_total{grpc_code="UNAVAILABLE",grpc_method="Charge",\
grpc_service="orderflow.payments.v1.PaymentGateway"} 2.0
orderflow_retries_total{grpc_method="Charge",\
grpc_service="orderflow.payments.v1.PaymentGateway"} 1.0
orderflow_retries_total{grpc_method="CreateOrder",grpc_service="orderflow.v1.OrderService"} 9.0
orderflow_limiter_limit{limiter="calls"} 200.0
orderflow_limiter_limit{limiter="streams"} 1000.0
orderflow_limiter_in_flight{limiter="calls"} 3.0
orderflow_limiter_in_flight{limiter="streams"} 7.0
orderflow_orders_parked 4.0
orderflow_events_published_total 60.0
orderflow_events_refused_total{reason="too_large"} 2.0
orderflow_events_refused_total{reason="refused"} 1.0
process_open_fds 28.0
"""


def test_a_sample_is_read_from_the_metrics_of_a_server() -> None:
    assert read_sample(METRICS, at_s=1.5, server=2) == Sample(
        at_s=1.5,
        server=2,
        gateway_breaker="open",
        store_breaker="half_open",
        attempts=7.0,
        retries=1.0,
        limit=200.0,
        in_flight=3.0,
        parked=4.0,
        published=60.0,
        refused_events=3.0,
    )
