"""The log of a relay: what its lines say of our letters, whose they are, and what is kept when the reader dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.mailer.actions.settle import SettleReceipt
from services.mailer.inbound.file_tail import FileTail, Place
from services.mailer.inbound.postfix_log import MOST_HELD, Entry, PostfixLog, read_line
from services.mailer.metrics import ReceiptMetrics
from services.mailer.rules.outcome import HandedOver
from services.mailer.rules.receipt import Backoff, Receipt, Source, Told
from tests.conditions import eventually
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import InMemoryLedger, RecordingEvents
from tests.fakes.mailer_receipts import InMemoryReceiptBook

S = timedelta(seconds=1)
HEAD = "Nov 27 11:29:01 relay postfix"
TO = "to=<lan@example.vn>, relay=mx.example.vn[192.0.2.1]:25"
SENT = f"{HEAD}/smtp[71]: 4bXyZ1: {TO}, delay=0.31, delays=0.05/0/0.1/0.16, dsn=2.0.0, status=sent (250 2.0.0 ok)"
DEFERRED = (
    f"{HEAD}/smtp[71]: 4bXyZ1: {TO}, delay=2.5, delays=0.1/0/1/1.4, dsn=4.7.1, status=deferred "
    "(host mx.example.vn[192.0.2.1] said: 450 4.7.1 greylisted (in reply to RCPT TO command))"
)
BOUNCED = f"{HEAD}/smtp[71]: 4bXyZ1: {TO}, delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (550 5.1.1 no such user)"
EXPIRED = f"{HEAD}/qmgr[70]: 4bXyZ1: from=<a@kip.example>, status=expired, returned to sender"
REMOVED = f"{HEAD}/qmgr[70]: 4bXyZ1: removed"
LINES = {
    SENT: Entry("4bXyZ1", Told.DELIVERED, 0.31 * S, "2.0.0"),
    DEFERRED: Entry("4bXyZ1", Told.DEFERRED, 2.5 * S, "4.7.1"),
    BOUNCED: Entry("4bXyZ1", Told.BOUNCED, S, "5.1.1"),
    EXPIRED: Entry("4bXyZ1", Told.BOUNCED, None, "4.4.7"),
    REMOVED: Entry("4bXyZ1", None),
}
OTHERS = [
    "",
    f"{HEAD}/smtpd[3]: 4bXyZ1: client=mailer[10.0.0.1]",
    f"{HEAD}/cleanup[4]: 4bXyZ1: message-id=<challenge-1.1@kip.example>",
    f"{HEAD}/qmgr[70]: 4bXyZ1: from=<a@kip.example>, size=4100, nrcpt=1 (queue active)",
    f"{HEAD}/smtp[71]: 4bXyZ1: {TO}, delay=0.31, delays=0/0/0/0, dsn=2.0.0, status=deliverable (ok)",
    f"{HEAD}/smtp[71]: 4bXyZ1: host mx said: to=<a>, relay=b, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent",
    f"{HEAD}/smtp[71]: warning: 4bXyZ1: {TO}, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent",
    SENT.replace("delay=0.31", "delay=soon"),
    SENT.replace("dsn=2.0.0", "dsn=9.0.0"),
    SENT.replace("4bXyZ1", "../../etc"),
    SENT.replace("delay=0.31", f"delay={'9' * 400}"),
    "\x00\ufffd" * 400,
]


class Relay:
    """A log of which one letter is ours, and who reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mail.log"
        self.path.touch()
        self.clock = FakeClock(NOON + 900 * S)
        self.ledger = InMemoryLedger(self.clock)
        self.book = InMemoryReceiptBook(self.ledger)
        self.events = RecordingEvents()
        self.registry = CollectorRegistry()
        self.metrics = ReceiptMetrics(self.registry)
        self.held_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Begin to follow, where the bookmark is."""
        place = Place.unpacked(self.book.places[-1]) if self.book.places else None
        self.tail = FileTail(self.path, place, lambda _: None, linger_s=0)
        self.log = PostfixLog(
            self.tail,
            SettleReceipt(self.book, self.events),
            self.book,
            self.metrics,
            route="relay-1",
            backoff=Backoff(300 * S, 4000 * S),
            clock=self.clock,
            held_s=self.held_s,
        )

    def begin_again(self) -> None:
        """Let the follower die, and another begin."""
        self.tail.close()
        self.begin()

    async def took(self, relay_id: str = "4bXyZ1", letter_id: str = "challenge-1.1", route: str = "relay-1") -> None:
        """Let the mailer note that the relay took a letter a second after noon."""
        await self.ledger.settle(letter_id, HandedOver(NOON + S, NOON, route, relay_id))

    def write(self, *lines: str) -> None:
        """Write lines."""
        with self.path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    async def says(self, *lines: str) -> None:
        """Write lines, and let all there is be read."""
        self.write(*lines)
        while await self.log.step():
            pass

    @property
    def told(self) -> list[Told]:
        """What was told on."""
        return [receipt.told for _letter, receipt in self.events.receipts]

    def ignored(self, reason: str) -> float | None:
        """Return how many receipts had no effect for that reason."""
        labels = {"source": "relay_log", "reason": reason}
        return self.registry.get_sample_value("mailer_receipts_ignored_total", labels)

    def news(self, told: Told) -> float | None:
        """Return how many receipts were news."""
        return self.registry.get_sample_value("mailer_receipts_total", {"source": "relay_log", "told": told})


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path)
    yield made
    made.tail.close()


@pytest.mark.parametrize(("line", "entry"), LINES.items(), ids=["sent", "deferred", "bounced", "expired", "removed"])
def test_what_a_line_says(line: str, entry: Entry) -> None:
    assert read_line(line) == entry
    assert read_line(line.replace("Nov 27 11:29:01", "2026-11-27T11:29:01.123456+07:00")) == entry
    assert read_line(line.replace(" postfix/", " postfix-otp/relay/")) == entry
    assert read_line(line.replace("to=<lan@example.vn>,", "to=<lan@example.vn>, orig_to=<lan@kip.example>,")) == entry
    assert read_line(line.replace(":25,", ":25, conn_use=7,")) == entry


@pytest.mark.parametrize("line", OTHERS)
def test_a_line_that_is_about_something_else_says_nothing(line: str) -> None:
    assert read_line(line) is None


@given(st.text())
def test_no_line_breaks_the_reader(text: str) -> None:
    read_line(text)
    read_line(f"{HEAD}/smtp[71]: 4bXyZ1: {text}")


async def test_a_receipt_is_dated_by_our_own_clock_and_the_age_of_the_mail(relay: Relay) -> None:
    await relay.took()

    await relay.says(DEFERRED, SENT)

    at = NOON + S + 2.5 * S
    assert relay.events.receipts == [
        ("challenge-1.1", Receipt(Told.DEFERRED, Source.RELAY_LOG, at, "4.7.1", at + 300 * S)),
        ("challenge-1.1", Receipt(Told.DELIVERED, Source.RELAY_LOG, NOON + S + 0.31 * S, "2.0.0")),
    ]
    assert (relay.news(Told.DEFERRED), relay.news(Told.DELIVERED)) == (1, 1)


async def test_a_mail_that_the_relay_gave_up_is_bounced_now(relay: Relay) -> None:
    await relay.took()

    await relay.says(EXPIRED)

    assert relay.events.receipts == [("challenge-1.1", Receipt(Told.BOUNCED, Source.RELAY_LOG, relay.clock(), "4.4.7"))]


async def test_a_delivery_within_the_same_instant_lies_behind_the_hand_over(relay: Relay) -> None:
    await relay.took()

    await relay.says(DEFERRED.replace("delay=2.5", "delay=0"))

    assert relay.events.receipts[0][1].at > NOON + S


@pytest.mark.parametrize(
    "line", [SENT.replace("4bXyZ1", "9zzzzzz"), SENT.replace("4bXyZ1", "4BXYZ1")], ids=["foreign", "another case"]
)
async def test_the_wrong_queue_id_has_no_effect_and_is_counted(relay: Relay, line: str) -> None:
    await relay.took()
    await relay.took(relay_id="9zzzzzz", route="relay-2")

    await relay.says(line)

    assert relay.events.receipts == []
    assert relay.ignored("unknown_letter") == 1


async def test_octets_that_are_no_text_have_no_effect_and_are_counted(relay: Relay) -> None:
    await relay.took()
    with relay.path.open("ab") as file:
        file.write(b"\xff\xfe\x80\n\x00\x01\x02\n\x1b[31mred\n")

    await relay.says(*OTHERS[:-1], "Nov 27 sshd: a\ttab, vi\u1ec7t", SENT)

    assert relay.told == [Told.DELIVERED]
    assert relay.ignored("garbage") == 3


async def test_a_line_that_comes_again_is_told_once(relay: Relay) -> None:
    await relay.took()

    await relay.says(DEFERRED, SENT, SENT, DEFERRED)

    assert relay.told == [Told.DEFERRED, Told.DELIVERED]
    assert relay.ignored("repeated") == 2


async def test_a_deferral_that_comes_after_the_end_has_no_effect_and_is_counted(relay: Relay) -> None:
    await relay.took()

    await relay.says(SENT, DEFERRED)

    assert relay.told == [Told.DELIVERED]
    assert relay.ignored("outranked") == 1


async def test_a_line_before_the_mailers_note_is_held_for_it(relay: Relay) -> None:
    relay.held_s = 3600
    relay.begin_again()
    await relay.says(SENT)
    assert (relay.told, relay.book.places) == ([], [])

    await relay.took()
    await relay.says()

    assert relay.told == [Told.DELIVERED]
    assert relay.book.places
    assert relay.ignored("unknown_letter") == 0


async def test_the_bookmark_stays_before_a_line_that_is_held_and_another_reader_finds_it(relay: Relay) -> None:
    relay.held_s = 3600
    relay.begin_again()
    await relay.took()
    await relay.says(SENT, BOUNCED.replace("4bXyZ1", "notyetknown"), REMOVED)
    assert relay.told == [Told.DELIVERED]

    relay.begin_again()
    await relay.took("notyetknown", "challenge-2.1")
    await relay.says()

    assert relay.told == [Told.DELIVERED, Told.BOUNCED]


async def test_not_more_lines_are_held_than_fit(relay: Relay) -> None:
    relay.held_s = 3600
    relay.begin_again()

    await relay.says(*(SENT.replace("4bXyZ1", f"foreign{number}") for number in range(MOST_HELD + 3)))

    assert relay.ignored("unknown_letter") == 3


@pytest.mark.parametrize("where", ["relayed", "told", "note", "keep_bookmark", "let_go"])
async def test_killed_while_redis_is_away_nothing_is_lost_and_nothing_is_told_for_longer(
    relay: Relay, where: str
) -> None:
    await relay.took()
    relay.write(DEFERRED, SENT, REMOVED)
    relay.book.away_for = {where}
    stuck = asyncio.create_task(relay.log.step())
    await eventually(lambda: relay.book.refused > 0, within_s=10)
    stuck.cancel()
    relay.book.away_for = set()
    relay.begin_again()

    await relay.says()

    assert list(dict.fromkeys(relay.told)) == [Told.DEFERRED, Told.DELIVERED]
    assert len(set(relay.events.receipts)) == 2, "what is told again is the same, which its owner merges"
    assert len(relay.told) <= 2 + (where == "note") * relay.book.refused


async def test_it_is_told_when_the_log_was_last_read_and_when_its_last_line_came(relay: Relay) -> None:
    def told(what: str) -> float | None:
        name = f"mailer_receipts_log_{what}_timestamp_seconds"
        return relay.registry.get_sample_value(name, {"route": "relay-1"})

    assert (told("read"), told("line")) == (None, None), "where no log is followed nothing is told"
    await relay.says(OTHERS[1])
    came = relay.clock().timestamp()
    assert (told("read"), told("line")) == (came, came)

    relay.clock.pass_by(60 * S)
    await relay.log.step()
    read = relay.clock().timestamp()
    assert (told("read"), told("line")) == (read, came)

    relay.clock.pass_by(60 * S)
    relay.path.unlink()
    relay.path.mkdir()
    relay.begin_again()
    await relay.log.step()
    assert (told("read"), told("line")) == (read, came), "a log that cannot be read is not read"


async def test_following_begins_the_time_without_a_line(relay: Relay) -> None:
    following = asyncio.create_task(relay.log.follow())
    name = "mailer_receipts_log_line_timestamp_seconds"

    begun = await eventually(lambda: relay.registry.get_sample_value(name, {"route": "relay-1"}))
    following.cancel()

    assert begun == relay.clock().timestamp()


async def test_a_relay_that_has_done_with_a_mail_may_give_its_id_to_another(relay: Relay) -> None:
    await relay.took()
    await relay.says(SENT, REMOVED)

    await relay.says(BOUNCED)

    assert relay.told == [Told.DELIVERED]
    assert relay.ignored("unknown_letter") == 1


async def test_while_the_broker_is_away_the_line_waits(relay: Relay) -> None:
    await relay.took()
    relay.events.failures_left = 2

    await relay.says(SENT)

    assert relay.told == [Told.DELIVERED]
    assert relay.events.failures_left == 0
