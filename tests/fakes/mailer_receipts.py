"""In-memory twin of the mailer's `ReceiptBook`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from services.mailer.ports import LedgerAway, Relayed
from services.mailer.rules.letter import Lane, LetterName
from services.mailer.rules.receipt import Receipt
from tests.fakes.mailer import InMemoryLedger


class InMemoryReceiptBook:
    """Implements `ReceiptBook`, over the ledger that notes the names of one lane."""

    def __init__(self, ledger: InMemoryLedger, lane: Lane = Lane.OTP) -> None:
        self.away_for: set[str] = set()
        """Names of methods that do not answer."""
        self.refused = 0
        """How often they were called."""
        self.noted: dict[str, list[str]] = {}
        self.places: list[bytes] = []
        """Of the log, as they were kept."""
        self._ledger = ledger
        self._lane = lane

    async def relayed(self, route: str, relay_ids: Collection[str]) -> Mapping[str, Relayed]:
        """Implements `ReceiptBook`."""
        self._answer("relayed")
        found = {}
        for relay_id in relay_ids:
            known = self._ledger.names.get((route, relay_id))
            if known is not None:
                owner_id, _, generation = known[0].rpartition(".")
                found[relay_id] = Relayed(LetterName(self._lane, owner_id, int(generation)), known[1])
        return found

    async def let_go(self, route: str, relay_id: str) -> None:
        """Implements `ReceiptBook`."""
        self._answer("let_go")
        self._ledger.names.pop((route, relay_id), None)

    async def told(self, letter_id: str) -> Collection[str]:
        """Implements `ReceiptBook`."""
        self._answer("told")
        return set(self.noted.get(letter_id, []))

    async def note(self, letter_id: str, receipt: Receipt) -> None:
        """Implements `ReceiptBook`."""
        self._answer("note")
        self.noted.setdefault(letter_id, []).append(receipt.key)

    async def bookmark(self, log: str) -> bytes | None:  # noqa: ARG002 - it has one log
        """Implements `ReceiptBook`."""
        self._answer("bookmark")
        return self.places[-1] if self.places else None

    async def keep_bookmark(self, log: str, place: bytes) -> None:  # noqa: ARG002 - it has one log
        """Implements `ReceiptBook`."""
        self._answer("keep_bookmark")
        self.places.append(place)

    def _answer(self, method: str) -> None:
        if method in self.away_for:
            self.refused += 1
            raise LedgerAway("away")
