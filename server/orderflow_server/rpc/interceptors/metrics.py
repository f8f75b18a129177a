"""Counts the calls by the status that the caller gets, and takes their time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from orderflow_client.contract import MethodContract
from orderflow_client.telemetry.call_metrics import CallMetrics, MethodMetrics
from orderflow_client.telemetry.conventions import OTHER, grpc_type
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation


def call_metrics(contract: Mapping[str, MethodContract], metrics: CallMetrics) -> Interceptor:
    """Makes the interceptor.

    Args:
        contract: The methods, by path. What is none of them is counted as "other": were it
            counted by name, a caller could make as many time series as it likes.
        metrics: The server's.
    """
    methods: Mapping[str, MethodMetrics] = {
        path: metrics.of(
            grpc_type=grpc_type(
                request_streaming=method.request_streaming,
                response_streaming=method.response_streaming,
            ),
            service=method.service,
            method=method.name,
        )
        for path, method in contract.items()
    }
    other = metrics.of(grpc_type=OTHER, service=OTHER, method=OTHER)

    async def count(call: ServerCall, proceed: Operation) -> Any:
        method = methods.get(call.method.path, other)
        method.started()
        try:
            return await proceed(call)
        except BaseException as error:
            call.settle(error)
            raise
        finally:
            method.handled(
                call.code,
                time.perf_counter() - call.started_s,
                trace_id=call.trace_id if call.kept else "",
            )

    return count
