"""The ledger in Redis: one hash per letter, and a sorted set per letter of which its owner said more.

| key | type | fields | ends |
|---|---|---|---|
| `mailer:{<letter id>}` | hash | `claimed`, `began` (a body may have left), `outcome` (MessagePack) | deadline + 24 h |
| `mailer:{<letter id>}:wish` | sorted set | `wanted` (until, µs since 1970), `withdrawn` (1) | wanted + 24 h |

A letter is *claimed* when the key exists, *handing over* from `began` on, and settled with `outcome`. The earliest
`began` and the first `outcome` stay, so a repeat changes nothing; a `began` goes when the relay said no to that very
body. What its owner wishes is merged by `ZADD GT`, which only ever raises a score; it has a key of its own, which ends
when it must, whatever the letter's does, and in the letter's slot, so that one round trip reads both.

A call that needs longer than the budget counts as failed: slow is down. The budget is for Redis, so our own queue must
not use it up: a few calls run at once, on connections that are opened beforehand, and the others wait their turn. After
a restart sixty letters ask in the same moment whether they were sent already.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.mailer.metrics import MailerMetrics
from services.mailer.ports import LedgerAway, Seen
from services.mailer.rules.letter import Lane
from services.mailer.rules.outcome import Dropped, HandedOver, Outcome, Refused
from services.mailer.rules.wish import Wish

T = TypeVar("T")

BUDGET = timedelta(milliseconds=50)
CALLS_AT_ONCE = 8  # each costs us about a millisecond of processor: together far below the budget
OPEN_WITHIN_S = 2.0
UNCLAIMED_LIFE = timedelta(hours=48)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)  # a score is a double: whole microseconds are exact until the year 2255
WISHED = ["wanted", "withdrawn"]
KINDS: dict[str, type[HandedOver | Refused | Dropped]] = {
    "handed_over": HandedOver,
    "refused": Refused,
    "dropped": Dropped,
}

# Removes `began` (in KEYS[1], the hash of a letter) only if it is still the one that is told (ARGV[1]).
FORGET = "if redis.call('HGET', KEYS[1], 'began') == ARGV[1] then redis.call('HDEL', KEYS[1], 'began') end"


def redis_client(url: str) -> Redis:
    """Return a client that fails fast and never repeats by itself."""
    return Redis.from_url(
        url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0), max_connections=CALLS_AT_ONCE
    )


def letter_key(letter_id: str) -> str:
    """Return the key of a letter."""
    return f"mailer:{{{letter_id}}}"


def wish_key(letter_id: str) -> str:
    """Return the key of what was said of a letter."""
    return f"mailer:{{{letter_id}}}:wish"


class RedisLedger:
    """Implements `Ledger`."""

    def __init__(self, redis: Redis, lane: Lane, metrics: MailerMetrics, *, budget: timedelta = BUDGET) -> None:
        """Use a client made by `redis_client`, of its own; a call may take `budget` once its turn has come."""
        self._redis = redis
        self._lane = lane
        self._metrics = metrics
        self._budget_s = budget.total_seconds()
        self._forget = redis.register_script(FORGET)
        self._turn = asyncio.Semaphore(CALLS_AT_ONCE)

    async def open_connections(self) -> None:
        """Connect ahead of the first letter; when the server is not there yet, the first calls do."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(OPEN_WITHIN_S):
                await asyncio.gather(*(self._redis.ping() for _ in range(CALLS_AT_ONCE)))

    async def claim(self, letter_id: str, keep_until: datetime) -> Seen:
        """Implements `Ledger`."""
        key = letter_key(letter_id)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hsetnx(key, "claimed", "1")
        pipeline.pexpireat(key, int(keep_until.timestamp() * 1000))
        pipeline.hmget(key, ["began", "outcome"])
        pipeline.zmscore(wish_key(letter_id), WISHED)
        *_, (began, outcome), scores = await self._within_budget(pipeline.execute)
        return Seen(
            outcome=_outcome(outcome) if outcome else None,
            body_started_at=datetime.fromtimestamp(float(began), UTC) if began else None,
            wish=_wish(scores),
        )

    async def handing_over(self, letter_id: str, body_started_at: datetime) -> None:
        """Implements `Ledger`."""
        await self._note(letter_id, "began", repr(body_started_at.timestamp()))

    async def not_taken(self, letter_id: str, body_started_at: datetime) -> None:
        """Implements `Ledger`."""
        began = repr(body_started_at.timestamp())
        await self._within_budget(lambda: self._forget(keys=[letter_key(letter_id)], args=[began]))

    async def settle(self, letter_id: str, outcome: Outcome) -> None:
        """Implements `Ledger`."""
        packed = msgspec.msgpack.encode([_kind(outcome), msgspec.msgpack.encode(outcome)])
        await self._note(letter_id, "outcome", packed)

    async def heed(self, letter_id: str, wish: Wish, keep_until: datetime) -> Wish:
        """Implements `Ledger`."""
        key, ends = wish_key(letter_id), int(keep_until.timestamp() * 1000)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.zmscore(key, WISHED)
        pipeline.zadd(key, _scores(wish), gt=True)
        pipeline.pexpireat(key, ends, nx=True)  # `GT` takes a key without an end for one that is kept for ever
        pipeline.pexpireat(key, ends, gt=True)
        known, *_ = await self._within_budget(pipeline.execute)
        return _wish(known)

    async def wish(self, letter_id: str) -> Wish:
        """Implements `Ledger`."""
        key = wish_key(letter_id)
        return _wish(await self._within_budget(lambda: self._redis.zmscore(key, WISHED)))

    async def _note(self, letter_id: str, field: str, value: str | bytes) -> None:
        key = letter_key(letter_id)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hsetnx(key, field, value)
        pipeline.expire(key, UNCLAIMED_LIFE, nx=True)  # the claim may have failed: no key without an end
        await self._within_budget(pipeline.execute)

    async def _within_budget(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with self._turn, asyncio.timeout(self._budget_s):
                return await call()
        except (RedisError, OSError, TimeoutError) as error:
            self._metrics.ledger_away.labels(self._lane).inc()
            raise LedgerAway(type(error).__name__) from error


def _kind(outcome: Outcome) -> str:
    return next(name for name, kind in KINDS.items() if isinstance(outcome, kind))


def _outcome(packed: bytes) -> Outcome:
    name, body = msgspec.msgpack.decode(packed, type=tuple[str, bytes])
    return msgspec.msgpack.decode(body, type=KINDS[name])


def _scores(wish: Wish) -> dict[str, int]:
    scores = {}
    if wish.wanted_until is not None:
        scores["wanted"] = (wish.wanted_until - EPOCH) // MICROSECOND
    if wish.withdrawn:
        scores["withdrawn"] = 1
    return scores


def _wish(scores: Sequence[float | None]) -> Wish:
    wanted, withdrawn = scores
    return Wish(None if wanted is None else EPOCH + wanted * MICROSECOND, withdrawn=withdrawn is not None)
