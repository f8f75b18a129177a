"""A share of a core for a process, by Linux's control groups, version 1.

What is given less than there is becomes what bounds the throughput, however few cores there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 10_000
"""The turns are short, so that they look like a slower core and not like one that stands still."""


@contextmanager
def share_of_a_core(pids: Iterable[int], share: float) -> Iterator[bool]:
    """Each process gets a share of a core at most, until the block ends; yields whether it does.

    It needs to be root, where that version is mounted.
    """
    with ExitStack() as stack:
        try:
            for pid in pids:
                stack.enter_context(_group_of(pid, round(share * _PERIOD_US)))
        except OSError:
            yield False
        else:
            yield True


@contextmanager
def _group_of(pid: int, quota_us: int) -> Iterator[None]:
    group = _ROOT / f"orderflow-bench-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with suppress(OSError):  # It has ended.
            (_ROOT / "cgroup.procs").write_text(str(pid))
        group.rmdir()
