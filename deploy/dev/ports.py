"""Ports of this machine: finding a free one, keeping it, and saying who holds one that is taken.

Free ports come from below the range the kernel hands to outgoing connections (32768 and up on Linux): a port of that
range that looks free now can be somebody's source port a moment later, also while a killed server is down. A chosen
port is reserved among all launchers of this machine by an abstract Unix socket of its name, which the kernel drops
with its owner.
"""

from __future__ import annotations

import os
import random
import socket
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deploy.dev.problem import LaptopProblem

FREE_RANGE = range(20_000, 32_000)
ATTEMPTS = 200  # random looks into a range of 12 000 ports of which a few dozen are taken
LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp, see proc_pid_net(5)


class PortInUse(LaptopProblem):
    """A demanded port is held by another process, which is named where /proc tells."""

    def __init__(self, port: int) -> None:
        self.port = port
        holder = find_holder(port)
        by = f"by {holder}" if holder else "by another process"
        super().__init__(
            f"Port {port} is in use {by}. Stop that process, or move all our ports with KIP_PORT_BASE, "
            "for example: KIP_PORT_BASE=18400 make up.",
        )


class FreePort:
    """A free port that no other launcher of this machine will choose while this object lives and is not given back.

    Args:
        among: where to look, at random.
    """

    def __init__(self, among: Sequence[int] = FREE_RANGE) -> None:
        for number in random.sample(among, min(ATTEMPTS, len(among))):
            reservation = _reserve(number)
            if reservation is None:
                continue
            if is_free(number):
                self.number = number
                self._give_back = weakref.finalize(self, os.close, reservation.detach())
                return
            reservation.close()
        raise LaptopProblem(f"No free port was found between {among[0]} and {among[-1]}. Close some servers.")

    def give_back(self) -> None:
        """Let others choose it again; may be called twice."""
        self._give_back()


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections in TIME_WAIT do not count
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def find_holder(port: int) -> str | None:
    """Name the process that listens on a port, as `name (pid 123)`; None when /proc does not tell.

    A child that has only just been forked holds what its parent does; of the two the parent is named.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    holders: dict[str, tuple[str, str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            if any(_link(file) in sockets for file in (process / "fd").iterdir()):
                holders[process.name] = _name_and_parent(process)
    for number, (name, parent) in holders.items():
        if parent not in holders:
            return f"{name} (pid {number})"
    return None


def _link(file: Path) -> str:
    try:
        return str(file.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


def _name_and_parent(process: Path) -> tuple[str, str]:
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    return status["Name"].strip(), status["PPid"].strip()


def _reserve(number: int) -> socket.socket | None:
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0kip-port-{number}")
    except OSError:
        reservation.close()
        return None
    return reservation


def _listening_inodes(port: int) -> list[str]:
    inodes = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            _slot, local, _remote, state, *_rest = fields = line.split()
            if state == LISTEN and int(local.rpartition(":")[2], 16) == port:
                inodes.append(fields[9])
    return inodes
