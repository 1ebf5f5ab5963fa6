"""What the receipts need to remember, in the ledger's Redis; its keys are in the table of `redis_ledger`.

What is read here is decided upon and written in one process, and a repeat is harmless everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.chassis.redis_commands import Script, Word
from services.chassis.redis_servers import RedisServers, servers_of
from services.mailer.outbound.redis_ledger import log_key, receipts_key, relayed_key
from services.mailer.ports import LedgerAway, Relayed
from services.mailer.rules.letter import Lane, LetterName
from services.mailer.rules.receipt import Receipt

TOLD_KEPT = timedelta(days=7)

# Adds to what was told of a letter (KEYS[1], a set) the key of a receipt (ARGV[1]), and keeps it for ARGV[2] ms more.
NOTE = Script("redis.call('SADD', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], ARGV[2])")


class RedisReceipts:
    """Implements `ReceiptBook`."""

    def __init__(self, redis: Redis | RedisServers) -> None:
        """Use a client made by `redis_client`, or servers of such."""
        self._servers = servers_of(redis)

    async def relayed(self, route: str, relay_ids: Collection[str]) -> Mapping[str, Relayed]:
        """Implements `ReceiptBook`."""
        asked = [("GET", relayed_key(route, relay_id)) for relay_id in relay_ids]
        names = await _answered(lambda: self._servers.ask_each(asked))
        return {relay_id: _relayed(name) for relay_id, name in zip(relay_ids, names, strict=True) if name is not None}

    async def let_go(self, route: str, relay_id: str) -> None:
        """Implements `ReceiptBook`."""
        await _answered(lambda: self._servers.ask("DEL", relayed_key(route, relay_id)))

    async def told(self, letter_id: str) -> Collection[str]:
        """Implements `ReceiptBook`."""
        members: Collection[bytes] = await _answered(lambda: self._servers.ask("SMEMBERS", receipts_key(letter_id)))
        return {member.decode() for member in members}

    async def note(self, letter_id: str, receipt: Receipt) -> None:
        """Implements `ReceiptBook`."""
        args: list[Word] = [receipt.key, int(TOLD_KEPT.total_seconds() * 1000)]
        await _answered(lambda: self._servers.run(NOTE, [receipts_key(letter_id)], args))

    async def bookmark(self, log: str) -> bytes | None:
        """Implements `ReceiptBook`."""
        place: bytes | None = await _answered(lambda: self._servers.ask("GET", log_key(log)))
        return place

    async def keep_bookmark(self, log: str, place: bytes) -> None:
        """Implements `ReceiptBook`."""
        await _answered(lambda: self._servers.ask("SET", log_key(log), place))


async def _answered(call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except (RedisError, OSError, TimeoutError) as error:
        raise LedgerAway(type(error).__name__) from error


def _relayed(packed: bytes) -> Relayed:
    lane, letter_id, accepted_at = msgspec.msgpack.decode(packed, type=tuple[str, str, datetime])
    owner_id, _, generation = letter_id.rpartition(".")
    return Relayed(LetterName(Lane(lane), owner_id, int(generation)), accepted_at)
