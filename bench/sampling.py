"""Where the time of a call goes: py-spy looks at the stacks of the otp process, native frames too; parts are counted.

A sample belongs to the innermost frame that has an owner in `PARTS`; what has none (the interpreter, libc, the standard
library) counts for whoever called it. So "Redis client" holds the socket calls and timers that it asks asyncio for, and
"asyncio" is only the loop's own work. Threads that wait for a descriptor, a lock or the interpreter count nowhere.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench.environment import bench_program

RATE = 50  # looks per second; each stops the process for milliseconds, and for more on a busy machine

WAITS = re.compile(  # for a descriptor, a lock, the interpreter; `syscall` is the futex of gRPC's own locks
    r"epoll_wait|pthread_cond_(timed)?wait|_acquire_lock_timed|take_gil|_queue_SimpleQueue_get|lock_PyThread|^syscall "
)
INNERMOST = 6  # frames in which a wait is looked for: unnamed libc frames stand below it
ANYWHERE = (  # whatever is innermost
    ("garbage collector", re.compile(r"^gc_collect_main")),
    ("sweep of the outbox (each second)", re.compile(r"^(sweep_for_ever|SweepOutbox)")),
    (
        "Redis client",
        re.compile(r"^_SelectorSocketTransport\._read_ready"),
    ),  # gRPC and kafka-python have pollers of their own
)
PARTS = (
    ("drawing ids and references", re.compile(r"SystemRandom|/random\.py|\(random\.py|secrets\.py|mint_id|^getrandom")),
    ("email_validator", re.compile(r"email_validator/|\(idna/|[( ]dns/")),
    ("field checks", re.compile(r"grpc_fields\.py|cleaned \(")),
    ("keyring: seal", re.compile(r"Keyring\.(seal|open)|sealed_parts\.py|cryptography/|_rust\.abi3")),
    ("keyring: HMAC", re.compile(r"keyring\.py|_hashopenssl|hmac\.py")),
    ("msgspec", re.compile(r"msgspec/|\(ms_|mpack_")),
    ("Redis client", re.compile(r"\(redis/|redis_store\.py|/redis/")),
    ("Kafka producer", re.compile(r"\(kafka/|kafka_producer\.py|kafka_events\.py|chassis/events\.py")),
    ("inbox of delivery events", re.compile(r"\((faust|mode|aiokafka)/|ordered_inbox\.py")),
    ("telemetry of a call (span, metrics)", re.compile(r"opentelemetry|\(trace/|prometheus_client|_decorator\.py")),
    ("gate (caller, deadline)", re.compile(r"grpc_server\.py")),
    ("logging", re.compile(r"\((structlog|logging)/|telemetry\.py")),
    ("protobuf", re.compile(r"\(google/|protobuf/|_upb|_pb2|inbound/grpc_api\.py")),
    ("gRPC", re.compile(r"cygrpc|\(grpc/|grpc_status")),
    ("rules and verbs", re.compile(r"services/otp/(rules|actions|ports)")),
)
LOOP = "asyncio"
OTHER = "interpreter, unnamed"


def start_sampling(pid: int, seconds: float, into: Path) -> subprocess.Popen[bytes]:
    """Begin to write collapsed stacks of a process; it ends by itself. Needs root, or a kernel that lets us trace."""
    options = [
        "--format",
        "raw",
        "--native",
        "--threads",
        "--rate",
        str(RATE),
        "--duration",
        str(max(round(seconds), 1)),
    ]
    command = [bench_program("py-spy"), "record", "--pid", str(pid), "--output", str(into), *options]
    sampler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Wherever there is room: kept beside busy stores it would come late, and then look several times at one moment.
    os.sched_setaffinity(sampler.pid, os.sched_getaffinity(0) | os.sched_getaffinity(pid))
    return sampler


def shares(stacks: Iterable[str]) -> dict[str, float]:
    """Return each part's share of the busy samples, largest first; `stacks` are lines of py-spy's raw format."""
    busy: Counter[str] = Counter()
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if not any(WAITS.search(frame) for frame in frames[-INNERMOST:]):
            busy[part_of(frames)] += int(samples)
    return {part: samples / busy.total() for part, samples in busy.most_common()}


def part_of(frames: list[str]) -> str:
    """Return the part that a stack belongs to; the outermost frame stands first."""
    for part, pattern in ANYWHERE:
        if any(pattern.search(frame) for frame in frames):
            return part
    for frame in reversed(frames):
        for part, pattern in PARTS:
            if pattern.search(frame):
                return part
    return LOOP if any(LOOP in frame for frame in frames) else OTHER
