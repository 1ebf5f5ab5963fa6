"""Admit a letter: where the queue is not longer than people wait, take what it costs of every limit, or say why not.

The queue comes first: it costs no call, and what it refuses has taken nothing. All limits are asked at once, so a
refusal names the longest wait, and what the others gave is given back. Only the client's limit keeps what it gave: who
is refused and asks again and again costs us as much as who is not. What is stored if the process dies: what was taken,
by a token that its repeat brings again.

Buckets are named by HMACs under the newest index key. When that key rolls, every bucket but the system's begins anew.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from services.chassis.keyring import Key, Keyring, UnknownKey, pseudonym
from services.otp.ports import KeysUnknown, Queue, QuotaStore, Toll
from services.otp.rules.address import mailbox_of
from services.otp.rules.admission import JITTER, Ramp, moved, refused_for
from services.otp.rules.quota import SYSTEM_PARTS, Dimension, LetterAsked, Limit, Limits, NoRoom, Quota, part_of

KEPT_WHEN_REFUSED = Dimension.CLIENT


class AdmitLetter:
    """Verb: say whether one more letter may be made. Implements `Admit`."""

    def __init__(
        self,
        quotas: QuotaStore,
        queue: Queue | None,
        limits: Limits,
        *,
        index_keys: Keyring,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Count in the store; name buckets with the ring; `draw` yields a number between two.

        Without a queue nobody is refused because of its length.
        """
        self._quotas = quotas
        self._limits = limits
        self._index_keys = index_keys
        self._gate = None if queue is None else _Gate(queue, draw)

    def refusing(self, deadline: timedelta, now: datetime) -> tuple[float, bool]:
        """Return the share of those who ask that is refused now, of a queue deadline, where most are: 0 to 1.

        And whether that is worth telling: with a border between its beginning and its end.
        """
        return (0.0, False) if self._gate is None else self._gate.refusing(deadline, now)

    def __call__(self, now: datetime) -> Toll:
        """Implements `Admit`. Raises `KeysUnknown` when no index key may be used now."""
        try:
            return LetterToll(self._quotas, self._gate, self._limits, self._index_keys.minting(now), now)
        except UnknownKey as error:
            raise KeysUnknown from error


class _Gate:
    """The ramps of one process: one for each deadline and partition."""

    def __init__(self, queue: Queue, draw: Callable[[float, float], float]) -> None:
        self._queue = queue
        self._draw = draw
        self._ramps: dict[tuple[timedelta, int], tuple[Ramp, str]] = {}
        """With the last challenge that asked there."""

    def refused_for(self, letter: LetterAsked, now: datetime) -> timedelta | None:
        ramp, wait = self._moved(letter.challenge_id, letter.deadline, now)
        away = refused_for(ramp, letter.subject_key, wait, letter.deadline, now)
        return None if away is None else away * (1 + self._draw(0, JITTER))

    def refusing(self, deadline: timedelta, now: datetime) -> tuple[float, bool]:
        asked = [challenge_id for (of, _), (_, challenge_id) in self._ramps.items() if of == deadline]
        ramps = [self._moved(challenge_id, deadline, now)[0] for challenge_id in asked]
        return max((ramp.share for ramp in ramps), default=0.0), any(ramp.is_refusing for ramp in ramps)

    def _moved(self, challenge_id: str, deadline: timedelta, now: datetime) -> tuple[Ramp, timedelta]:
        load = self._queue.load(challenge_id)
        place = (deadline, load.partition)
        before, _ = self._ramps.get(place, (Ramp(), ""))
        ramp = moved(before, load.told_wait, deadline, now)
        self._ramps[place] = (ramp, challenge_id)
        return ramp, load.told_wait


class LetterToll:
    """Implements `Toll`."""

    def __init__(self, quotas: QuotaStore, gate: _Gate | None, limits: Limits, key: Key, now: datetime) -> None:
        """Name buckets with this key."""
        self._quotas = quotas
        self._gate = gate
        self._now = now
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
        away = None if self._gate is None else self._gate.refused_for(letter, self._now)
        if away is not None:
            return NoRoom(away, is_overload=True)
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
