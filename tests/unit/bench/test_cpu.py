"""CPU time and cores of processes, read from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.cpu import cpu_seconds, own_cores, pin
from tests.conditions import wait_until

BURN = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); print('done', flush=True); input()"


def test_what_ended_children_used_counts_for_their_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "done\n"

        used = cpu_seconds(parent.pid)

        parent.communicate("\n")
    assert used >= 0.2


def test_a_child_counts_while_it_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            before, own = cpu_seconds(os.getpid()), time.process_time()
            wait_until(lambda: cpu_seconds(child.pid) > 0.1, within_s=20, what="a child that uses its core")

            grown = cpu_seconds(os.getpid()) - before

            assert grown - (time.process_time() - own) > 0.02
        finally:
            child.kill()


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()

    assert cpu_seconds(gone.pid) == 0


def test_service_and_others_share_a_core_only_where_there_is_but_one() -> None:
    cores = os.sched_getaffinity(0)

    service, others = own_cores(service=True), own_cores(service=False)

    assert len(service) == 1
    assert set(service) | set(others) == cores
    assert set(service).isdisjoint(others) == (len(cores) > 1)


def test_a_pinned_process_keeps_to_its_cores() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pin(process.pid, own_cores(service=True))

        assert os.sched_getaffinity(process.pid) == set(own_cores(service=True))
        process.communicate(b"\n")
