from __future__ import annotations

import pytest

pytest.register_assert_rewrite("rpc.conformance.checks")


def pytest_addoption(parser: pytest.Parser) -> None:
    # pytest reads this file in time only when the command line names its directory.
    parser.addoption(
        "--interceptors",
        metavar="MODULE:FACTORY",
        help="run the conformance suite against the grpc.aio.ServerInterceptors that this makes",
    )
