"""A disk without room is told before the work, and during it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deploy.dev.problem import LaptopProblem, disk_full_told, refuse_small_disk


def test_a_small_disk_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(LaptopProblem, match=r"Kafka needs 1000000000 MB in .*not-made-yet, and only \d+ MB are free"):
        refuse_small_disk(tmp_path / "not-made-yet", 1_000_000_000, "Kafka")


def test_a_large_enough_disk_is_fine(tmp_path: Path) -> None:
    refuse_small_disk(tmp_path, 1, "Kafka")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_named(number: int, tmp_path: Path) -> None:
    with pytest.raises(LaptopProblem, match=f"No space is left on the disk of {tmp_path}"), disk_full_told(tmp_path):
        raise OSError(number, os.strerror(number))


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_full_told(tmp_path):
        raise PermissionError(errno.EACCES, "no")
