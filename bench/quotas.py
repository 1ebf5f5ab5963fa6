"""What all limits of one letter cost: `python -m bench.quotas`, on a real Redis of its own.

Letters of as many people as make 100 000 buckets are admitted one after another and 16 at a time, then as many that one
limit refuses, whose others are given back. CPU is user + system time of this process and of Redis; round trips are
what Redis read. The queue is idle, so admission itself costs only its arithmetic.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from bench.machine import machine
from deploy.dev.valkey_server import ValkeyServer
from services.chassis.keyring import Key, Keyring
from services.otp.actions.admit import AdmitLetter
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_quotas import RedisQuotas
from services.otp.outbound.redis_store import redis_client
from services.otp.outbound.yaml_policy import read_policy
from services.otp.ports import Position
from services.otp.rules.admission import Load
from services.otp.rules.outlook import Outlook
from services.otp.rules.quota import Dimension, LetterAsked, Limits
from services.otp.settings import PACKAGED_POLICY

BUCKETS = 100_000
PERSONAL = 3  # buckets that each letter makes: subject, address, client; domains and the system's parts are few
IN_FLIGHT = 16
REPORT = Path(".kip/bench/quotas.json")


class IdleQueue:
    """Implements `Queue`: nothing waits."""

    def load(self, challenge_id: str) -> Load:
        """Implements `Queue`."""
        del challenge_id
        return Load(timedelta(0))

    def outlook(self, position: Position | None, now: datetime) -> Outlook:
        """Implements `Queue`."""
        del position, now
        return Outlook()

    def unpublished(self, letters: int) -> None:
        """Implements `Queue`."""

    def handed_over(self, at: datetime) -> None:
        """Implements `Queue`."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one letter."""

    letters: int
    per_second: float
    cpu_us: float
    redis_cpu_us: float
    round_trips: float
    p99_ms: float


def letter(number: int, deadline: timedelta) -> LetterAsked:
    """Return the first letter of a person who was never seen."""
    return LetterAsked(
        token=f"c00{number:026}",
        subject_key=f"{number:032x}",
        email=f"citizen-{number}@town-{number % 997}.example.vn",
        challenge_id=f"c00{number:026}",
        deadline=deadline,
        client=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
    )


async def measured(redis: Redis, call: Callable[[int], Awaitable[object]], numbers: range, in_flight: int) -> Cost:
    """Make a call for each number, so many at a time."""
    waiting, took = iter(numbers), list[float]()

    async def one_after_another() -> None:
        for number in waiting:
            begun = time.perf_counter()
            await call(number)
            took.append(time.perf_counter() - begun)

    reads, spent, own, started = await _reads(redis), await _spent(redis), time.process_time(), time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    seconds, own = time.perf_counter() - started, time.process_time() - own
    count = len(numbers)
    return Cost(
        letters=count,
        per_second=round(count / seconds, 1),
        cpu_us=round(own / count * 1e6, 1),
        redis_cpu_us=round((await _spent(redis) - spent) / count * 1e6, 1),
        round_trips=round((await _reads(redis) - reads - 2) / count, 2),  # less these looks
        p99_ms=round(sorted(took)[int(count * 0.99)] * 1000, 2),
    )


async def run(redis: Redis, buckets: int) -> dict[str, Any]:
    """Measure; `redis` is empty."""
    policy = read_policy(PACKAGED_POLICY)
    deadline = next(iter(policy.purposes.values())).deadline
    quotas = RedisQuotas(redis, OtpMetrics(CollectorRegistry(), []), within=timedelta(seconds=30))
    keys = Keyring([Key("i1", b"i" * 32, datetime(2026, 1, 1, tzinfo=UTC))])
    ample = _ample(policy.limits)

    async def admitted(number: int) -> None:
        refused = await AdmitLetter(quotas, IdleQueue(), ample, index_keys=keys)(now).settle(letter(number, deadline))
        if refused is not None:
            raise AssertionError(f"letter {number} was refused by {refused.dimensions}")

    async def refused(number: int) -> None:
        full = replace(letter(number, deadline), email="full@example.vn")
        if await AdmitLetter(quotas, IdleQueue(), policy.limits, index_keys=keys)(now).settle(full) is None:
            raise AssertionError("nothing refused it")

    now = datetime.now(UTC)
    empty, people = await _memory(redis), buckets // PERSONAL
    part = people // 10
    alone = await measured(redis, admitted, range(part), 1)
    together = await measured(redis, admitted, range(part, people), IN_FLIGHT)
    memory, count = await _memory(redis) - empty, int(await redis.dbsize())
    for number in range(people, people + 10):
        await AdmitLetter(quotas, IdleQueue(), policy.limits, index_keys=keys)(now).settle(
            replace(letter(number, deadline), email="full@example.vn")
        )
    given_back = await measured(redis, refused, range(people + 10, people + 10 + part), 1)
    return {
        "one at a time": alone,
        f"{IN_FLIGHT} at a time": together,
        "refused, one at a time": given_back,
        "buckets": count,
        "octets a bucket": round(memory / count, 1),
    }


def _ample(limits: Limits) -> Limits:
    """Return the limits with the room that people have, and that one process which is all of them would not have."""
    wide = {name: replace(limits.letters[name], at_once=1_000_000) for name in (Dimension.DOMAIN, Dimension.SYSTEM)}
    return replace(limits, letters=dict(limits.letters) | wide)


async def _reads(redis: Redis) -> int:
    return int((await redis.info("stats"))["total_reads_processed"])


async def _spent(redis: Redis) -> float:
    told = await redis.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


async def _memory(redis: Redis) -> int:
    return int((await redis.info("memory"))["used_memory"])


async def _main(buckets: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder))
        server.start()
        try:
            async with redis_client(f"redis://{server.address}/0") as redis:
                return await run(redis, buckets)
        finally:
            server.stop()


def main() -> int:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description="What the limits of one letter cost.")
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    found = asyncio.run(_main(3_000 if parser.parse_args().quick else BUCKETS))
    report = {
        name: {field: getattr(cost, field) for field in Cost.__dataclass_fields__} if isinstance(cost, Cost) else cost
        for name, cost in found.items()
    }
    text = json.dumps({"machine": machine(), **report}, indent=2)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
