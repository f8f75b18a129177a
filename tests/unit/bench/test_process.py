"""What a process has used is read from the kernel, not guessed."""

from __future__ import annotations

import os
import threading
import time

from bench.process import children_of, cpu_s, parent_of, resident_bytes


def test_the_cpu_of_other_threads_counts() -> None:
    def work(until: threading.Event) -> None:
        began_s = time.thread_time()
        while time.thread_time() - began_s < 0.05:
            pass
        worked.set()
        until.wait()

    worked, ended = threading.Event(), threading.Event()
    before_s, own_before_s = cpu_s(os.getpid()), time.thread_time()
    thread = threading.Thread(target=work, args=(ended,))
    thread.start()
    worked.wait()
    own_s = time.thread_time() - own_before_s
    assert cpu_s(os.getpid()) - before_s - own_s >= 0.04
    ended.set()
    thread.join()


def test_memory_that_is_touched_is_resident() -> None:
    before = resident_bytes(os.getpid())
    touched = bytearray(os.urandom(1)) * 50_000_000
    assert resident_bytes(os.getpid()) - before > 40_000_000
    del touched


def test_a_process_is_among_the_children_of_its_parent() -> None:
    assert os.getpid() in children_of(parent_of(os.getpid()))
