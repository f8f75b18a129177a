"""A share of a core for a process, by Linux's control groups.

What is given less than there is becomes what bounds the throughput, however few cores there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000
"""The turns are short, so that they look like a slower core and not like one that stands still."""


@contextmanager
def share_of_a_core(pids: Iterable[int], share: float) -> Iterator[bool]:
    """Each process gets a share of a core at most, until the block ends; yields whether it does.

    It needs to be root, and a control group of the machine's and not of a container's.
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
    first = (_V1 / "cpu.cfs_quota_us").exists()
    root = _V1 if first else _V2
    group = root / f"orderflow-bench-{os.getpid()}-{pid}"
    if not first:
        (root / "cgroup.subtree_control").write_text("+cpu")
    group.mkdir()
    try:
        if first:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with suppress(OSError):  # It has ended.
            (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()
