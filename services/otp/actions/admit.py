"""Admit a letter: take what it costs of every limit, or nothing and say why not.

All limits are asked at once, so a refusal names the longest wait, and what the others gave is given back. Only the
client's limit keeps what it gave: who is refused and asks again and again costs us as much as who is not. What is
stored if the process dies: what was taken, by a token that its repeat brings again.

Buckets are named by HMACs under the newest index key. When that key rolls, every bucket but the system's begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from services.chassis.keyring import Key, Keyring, UnknownKey, pseudonym
from services.otp.ports import KeysUnknown, QuotaStore, Toll
from services.otp.rules.address import mailbox_of
from services.otp.rules.quota import SYSTEM_PARTS, Dimension, LetterAsked, Limit, Limits, NoRoom, Quota, part_of

KEPT_WHEN_REFUSED = Dimension.CLIENT


class AdmitLetter:
    """Verb: say whether one more letter may be made. Implements `Admit`."""

    def __init__(self, quotas: QuotaStore, limits: Limits, *, index_keys: Keyring) -> None:
        """Count in the store; name buckets with the ring."""
        self._quotas = quotas
        self._limits = limits
        self._index_keys = index_keys

    def __call__(self, now: datetime) -> Toll:
        """Implements `Admit`. Raises `KeysUnknown` when no index key may be used now."""
        try:
            return LetterToll(self._quotas, self._limits, self._index_keys.minting(now))
        except UnknownKey as error:
            raise KeysUnknown from error


class LetterToll:
    """Implements `Toll`."""

    def __init__(self, quotas: QuotaStore, limits: Limits, key: Key) -> None:
        """Name buckets with this key."""
        self._quotas = quotas
        self._limits = limits
        self._key = key
        self._paid: LetterAsked | None = None

    async def settle(self, letter: LetterAsked | None) -> NoRoom | None:
        """Implements `Toll`."""
        if letter is None:
            if self._paid is not None:
                await self._quotas.give_back(self._paid.token, list(self._costs(self._paid).values()))
                self._paid = None
            return None
        if self._paid is not None:
            return None
        costs = self._costs(letter)
        waits = dict(zip(costs, await self._quotas.take(letter.token, list(costs.values())), strict=True))
        full = tuple(dimension for dimension, wait in waits.items() if wait > timedelta(0))
        if not full:
            self._paid = letter
            return None
        kept = {*full, KEPT_WHEN_REFUSED}
        await self._quotas.give_back(letter.token, [costs[dimension] for dimension in costs if dimension not in kept])
        return NoRoom(max(waits.values()), full)

    def _costs(self, letter: LetterAsked) -> Mapping[Dimension, Quota]:
        """Return what a letter takes one of."""
        mailbox = mailbox_of(letter.email, self._limits.foldings)
        domain = mailbox.rpartition("@")[2]
        limits: dict[Dimension, Limit | None] = {**self._limits.letters}
        limits[Dimension.DOMAIN] = self._limits.of_domain(domain)
        if (system := limits.get(Dimension.SYSTEM)) is not None:
            limits[Dimension.SYSTEM] = system.split(SYSTEM_PARTS)
        names = {
            Dimension.SUBJECT: letter.subject_key,
            Dimension.ADDRESS: self._named(Dimension.ADDRESS, mailbox),
            Dimension.CLIENT: self._named(Dimension.CLIENT, letter.client) if letter.client else None,
            Dimension.DOMAIN: self._named(Dimension.DOMAIN, domain),
            Dimension.SYSTEM: f"{part_of(letter.token):x}",
        }
        return {
            dimension: Quota(f"{dimension}:{name}", limit)
            for dimension, name in names.items()
            if name is not None and (limit := limits.get(dimension)) is not None
        }

    def _named(self, dimension: Dimension, what: str) -> str:
        return pseudonym(self._key, "quota", dimension, what)
