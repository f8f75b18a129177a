"""Every arity, kind of handler and ending, through gRPC alone and through interceptors.

    pytest tests/rpc/conformance --interceptors package.module:factory

runs it against others: `factory()` returns a list of `grpc.aio.ServerInterceptor`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from rpc.conformance.cases import CASES, Case
from rpc.conformance.targets import Target, pointed_at, targets


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_not_looked_at() -> Iterator[None]:
    """Each case collects its garbage, which takes long when there is much that is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    place = metafunc.config.getoption("--interceptors", default=None)
    metafunc.parametrize(
        ("target", "case"),
        [
            pytest.param(target, case, id=f"{target.name}-{case}", marks=_marks(target, case))
            for target in ([pointed_at(place)] if place else targets())
            for case in CASES
        ],
    )


def _marks(target: Target, case: Case) -> list[pytest.MarkDecorator]:
    for known, always in ((target.fails, True), (target.sometimes_fails, False)):
        if reason := known.get(str(case)):
            return [pytest.mark.xfail(raises=AssertionError, strict=always, reason=reason)]
    return []


async def test_a_call_goes_as_it_must(target: Target, case: Case) -> None:
    await target.run(case)


def test_every_failure_that_is_known_is_that_of_a_case() -> None:
    ids = {str(case) for case in CASES}
    for target in targets():
        assert {*target.fails, *target.sometimes_fails} <= ids
