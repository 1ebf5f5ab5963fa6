"""The ledger in Redis: one hash per letter, and a sorted set per letter of which its owner said more.

| key | type | fields | ends |
|---|---|---|---|
| `mailer:{<letter id>}` | hash | owner (`attempt`, `topic`, `epoch`, `since`), `began`, `outcome` | deadline + 24 h |
| `mailer:{<letter id>}:wish` | sorted set | `wanted` (until, µs since 1970), `withdrawn` (1) | wanted + 24 h |
| `mailer:relayed:<route>:<relay id>` | string | lane, letter id, since when | a code 24 h, a notice 6 days later |
| `mailer:{<letter id>}:receipts` | set | keys of the receipts that were told on | a week after the last of them |
| `mailer:log:<route>` | string | how far the log of its relay was read | never |

A letter is *claimed* when it has an owner, *handing over* from `began` on (a body may have left: for everybody else its
fate is unknown), and settled with `outcome` (MessagePack). Who may claim it and who may hand it over is decided in one
script, `scripts/own.lua`: a later owner takes over at once, and an earlier one that is still at it is turned away
before the first octet. The earliest `began` and the first `outcome` stay, so a repeat changes nothing; a `began` goes
when the relay said no to that very body. What its owner wishes is merged by `ZADD GT`, which only ever raises a score;
it has a key of its own, which ends when it must, whatever the letter's does, and in the letter's slot, so that one
round trip reads both. The last two keys are `redis_receipts`'s.

A call that needs longer than the budget counts as failed: slow is down. After some of those in a row the breaker
(`rules/breaker.py`) fails all calls at once for a while, so that a Redis which answers after 2 s does not cost each
letter its three calls of 50 ms. The budget is for Redis, so our own queue must
not use it up: a few calls run at once, on connections that are opened beforehand, and the others wait their turn. After
a restart sixty letters ask in the same moment whether they were sent already.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.chassis.redis_commands import Script, Word, alone
from services.chassis.redis_servers import RedisServers, servers_of
from services.mailer.metrics import MailerMetrics
from services.mailer.ports import LedgerAway, MovedOn, Owner, Seen, TakenOver
from services.mailer.rules.breaker import Breaker
from services.mailer.rules.letter import Lane
from services.mailer.rules.outcome import Dropped, HandedOver, Outcome, Refused
from services.mailer.rules.wish import Wish

RELAYED_KEPT = {Lane.OTP: timedelta(hours=24), Lane.NOTICE: timedelta(days=6)}  # Postfix gives up after 5 days
T = TypeVar("T")

BUDGET = timedelta(milliseconds=50)
NONE, NAME_PATIENCE = timedelta(0), timedelta(milliseconds=450)
CALLS_AT_ONCE = 8  # each costs us about a millisecond of processor: together far below the budget
OPEN_WITHIN_S = 2.0
UNCLAIMED_LIFE = timedelta(hours=48)
NEWER_COUNTS = timedelta(minutes=10)  # an owner who does not know that its time is over finds out within a session
MILLISECOND = timedelta(milliseconds=1)
SCRIPTS = Path(__file__).with_name("scripts")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)  # a score is a double: whole microseconds are exact until the year 2255
WISHED = ["wanted", "withdrawn"]
KINDS: dict[str, type[HandedOver | Refused | Dropped]] = {
    "handed_over": HandedOver,
    "refused": Refused,
    "dropped": Dropped,
}

# Removes `began` (in KEYS[1], the hash of a letter) only if it is still the one that is told (ARGV[1]).
FORGET = Script("if redis.call('HGET', KEYS[1], 'began') == ARGV[1] then redis.call('HDEL', KEYS[1], 'began') end")


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


def relayed_key(route: str, relay_id: str) -> str:
    """Return the key of a letter as the relay of a route knows it."""
    return f"mailer:relayed:{route}:{relay_id}"


def receipts_key(letter_id: str) -> str:
    """Return the key of what was told of a letter."""
    return f"mailer:{{{letter_id}}}:receipts"


def log_key(route: str) -> str:
    """Return the key of how far the log of a relay was read."""
    return f"mailer:log:{route}"


class RedisLedger:
    """Implements `Ledger`."""

    def __init__(
        self,
        redis: Redis | RedisServers,
        lane: Lane,
        metrics: MailerMetrics,
        *,
        budget: timedelta = BUDGET,
        breaker: Breaker | None = None,
    ) -> None:
        """Use a client made by `redis_client`, or servers of such; its own. A call may take `budget` in its turn.

        Ledgers over the same server share their `breaker`, and what one learns the other need not.
        """
        self._servers = servers_of(redis)
        self._lane = lane
        self._metrics = metrics
        self._budget_s = budget.total_seconds()
        self._breaker = breaker or Breaker()
        self._own, self._settle, self._heed = (
            Script((SCRIPTS / f"{name}.lua").read_text()) for name in ("own", "settle", "heed")
        )
        self._turn = asyncio.Semaphore(CALLS_AT_ONCE)

    async def open_connections(self) -> None:
        """Connect ahead of the first letter; when the server is not there yet, the first calls do."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(OPEN_WITHIN_S):
                await asyncio.gather(
                    *(alone(redis, ("PING",)) for redis in self._servers.every() for _ in range(CALLS_AT_ONCE))
                )

    async def claim(self, letter_id: str, owner: Owner, keep_until: datetime) -> Seen:
        """Implements `Ledger`."""
        began, outcome, *scores = await self._owned(letter_id, owner, "claim", int(keep_until.timestamp() * 1000))
        return Seen(
            outcome=_outcome(outcome) if outcome else None,
            body_started_at=datetime.fromtimestamp(float(began), UTC) if began else None,
            wish=_wish(scores),
        )

    async def handing_over(self, letter_id: str, owner: Owner, body_started_at: datetime) -> None:
        """Implements `Ledger`."""
        await self._owned(letter_id, owner, "hand over", repr(body_started_at.timestamp()))

    async def not_taken(self, letter_id: str, body_started_at: datetime) -> None:
        """Implements `Ledger`."""
        began = repr(body_started_at.timestamp())
        await self._within_budget(lambda: self._servers.run(FORGET, [letter_key(letter_id)], [began]))

    async def settle(self, letter_id: str, outcome: Outcome) -> None:
        """Implements `Ledger`."""
        notes = [self._note_outcome(letter_id, outcome)]
        if isinstance(outcome, HandedOver) and outcome.relay_id:
            notes.append(self._note_name(letter_id, outcome))
        for failed in await asyncio.gather(*notes, return_exceptions=True):  # each on its own: one may get through
            if failed is not None:
                raise failed

    async def _note_outcome(self, letter_id: str, outcome: Outcome) -> None:
        packed = msgspec.msgpack.encode([_kind(outcome), msgspec.msgpack.encode(outcome)])
        args: list[Word] = [packed, UNCLAIMED_LIFE // MILLISECOND]
        await self._within_budget(lambda: self._servers.run(self._settle, [letter_key(letter_id)], args))

    async def _note_name(self, letter_id: str, outcome: HandedOver) -> None:
        """Note by what name the relay knows the letter.

        The letter has left: a Redis that is slow may take longer here, before receipts of it are nobody's.
        """
        name = msgspec.msgpack.encode([self._lane, letter_id, outcome.at])
        key, kept_ms = relayed_key(outcome.route, outcome.relay_id), RELAYED_KEPT[self._lane] // MILLISECOND
        await self._within_budget(lambda: self._servers.ask("SET", key, name, "PX", kept_ms), patience=NAME_PATIENCE)

    async def heed(self, letter_id: str, wish: Wish, keep_until: datetime) -> Wish:
        """Implements `Ledger`."""
        args = [int(keep_until.timestamp() * 1000), *_scores(wish)]
        return _wish(await self._within_budget(lambda: self._servers.run(self._heed, [wish_key(letter_id)], args)))

    async def wish(self, letter_id: str) -> Wish:
        """Implements `Ledger`."""
        key = wish_key(letter_id)
        return _wish(await self._within_budget(lambda: self._servers.ask("ZMSCORE", key, *WISHED)))

    async def _owned(self, letter_id: str, owner: Owner, step: str, when: str | int) -> Sequence[Any]:
        """Return `began`, `outcome`, `wanted` and `withdrawn` as they were: octets, or none."""
        keys = [letter_key(letter_id), wish_key(letter_id)]
        kept = (NEWER_COUNTS // MILLISECOND, UNCLAIMED_LIFE // MILLISECOND)
        args = [owner.attempt, owner.topic, owner.epoch, step, when, *kept]
        answer: list[Any] = await self._within_budget(lambda: self._servers.run(self._own, keys, args))
        match answer[0]:
            case b"moved":
                raise MovedOn
            case b"taken":
                raise TakenOver
        return answer[1:]

    async def _within_budget(self, call: Callable[[], Awaitable[Any]], *, patience: timedelta = NONE) -> Any:
        async with self._turn:
            if not self._breaker.lets_through(monotonic()):
                self._metrics.ledger_away.labels(self._lane).inc()
                raise LedgerAway("it failed again and again, and is left alone for a moment")
            try:
                async with asyncio.timeout(self._budget_s + patience.total_seconds()):
                    answer = await call()
            except (RedisError, OSError, TimeoutError) as error:
                self._breaker.failed(monotonic())
                self._metrics.ledger_away.labels(self._lane).inc()
                raise LedgerAway(type(error).__name__) from error
            else:
                self._breaker.succeeded()
                return answer
            finally:
                self._metrics.ledger_breaker_open.labels(self._lane).set(self._breaker.is_open)


def _kind(outcome: Outcome) -> str:
    return next(name for name, kind in KINDS.items() if isinstance(outcome, kind))


def _outcome(packed: bytes) -> Outcome:
    name, body = msgspec.msgpack.decode(packed, type=tuple[str, bytes])
    return msgspec.msgpack.decode(body, type=KINDS[name])


def _scores(wish: Wish) -> list[str | int]:
    """Return scores and names, as `ZADD` takes them."""
    scores: list[str | int] = []
    if wish.wanted_until is not None:
        scores += [(wish.wanted_until - EPOCH) // MICROSECOND, "wanted"]
    if wish.withdrawn:
        scores += [1, "withdrawn"]
    return scores


def _wish(scores: Sequence[bytes | float | None]) -> Wish:
    """Return the wish of scores that a command told as numbers, or a script as text."""
    wanted, withdrawn = scores
    return Wish(None if wanted is None else EPOCH + float(wanted) * MICROSECOND, withdrawn=withdrawn is not None)
