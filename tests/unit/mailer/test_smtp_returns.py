"""Mails to the return path: what a report of ours tells is settled, and everything else has a reason and no effect."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.chassis.keyring import Key, Keyring, UnknownKey
from services.mailer.actions.settle import SettleReceipt
from services.mailer.inbound.mime_reports import NoUse, Reported, Unusable, read_report
from services.mailer.inbound.smtp_returns import Limits, TakeReport
from services.mailer.metrics import ReceiptMetrics
from services.mailer.outbound.keyring_envelopes import ENVELOPE_ID, KeyringEnvelopes, NotOurs
from services.mailer.ports import LedgerAway, TryAgain
from services.mailer.rules.letter import Lane, LetterName
from services.mailer.rules.receipt import Receipt, Source, Told
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import InMemoryLedger, RecordingEvents
from tests.fakes.mailer_receipts import InMemoryReceiptBook
from tests.servers.relay_reports import report

S = timedelta(seconds=1)
KEY, OTHER_KEY = (Key(f"r{n}", f"made-up-secret-of-32-octets-{n:04}".encode(), NOON) for n in (1, 2))
ENVELOPES = KeyringEnvelopes(Keyring([KEY]))
LETTER = LetterName(Lane.OTP, "challenge-1", 2)
OURS = ENVELOPES.envelope_id(LETTER, NOON) or ""
ACTIONS = {
    "delivered": Told.DELIVERED,
    "relayed": Told.DELIVERED,
    "expanded": Told.DELIVERED,
    "delayed": Told.DEFERRED,
    "failed": Told.BOUNCED,
    "FAILED (really)": Told.BOUNCED,
}


class Door:
    """Where reports are taken."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOON + 60 * S)
        self.book = InMemoryReceiptBook(InMemoryLedger(self.clock))
        self.events = RecordingEvents()
        self.registry = CollectorRegistry()
        self.take = TakeReport(
            ENVELOPES, SettleReceipt(self.book, self.events), ReceiptMetrics(self.registry), self.clock
        )

    def ignored(self) -> dict[str, float]:
        """Return how many had no effect, by reason, without zeros."""
        samples = [s for family in self.registry.collect() for s in family.samples if "ignored_total" in s.name]
        return {s.labels["reason"]: s.value for s in samples if s.labels["source"] == "dsn" and s.value}


# Envelope ids


def test_an_envelope_id_says_which_letter_and_is_known_again() -> None:
    assert ENVELOPE_ID.fullmatch(OURS)
    assert len(OURS) <= 100  # RFC 3461 §4.4
    assert ENVELOPES.letter(OURS) == LETTER
    notice = LetterName(Lane.NOTICE, "0190f9a0-0000-7000-8000-000000000001", 1)
    assert ENVELOPES.letter(ENVELOPES.envelope_id(notice, NOON) or "") == notice


@pytest.mark.parametrize(
    "forged",
    [
        OURS.replace(".2.", ".3."),
        OURS.replace("challenge-1", "challenge-2"),
        OURS.replace("otp.", "notice."),
        OURS[:-1] + ("0" if OURS[-1] != "0" else "1"),
        OURS[:-20],
        OURS + "0",
        "",
        "otp.challenge-1.2",
        "otp.challenge-1.2.r1.",
        f"x{OURS}",
        OURS.upper(),
    ],
)
def test_what_was_changed_or_made_up_is_not_ours(forged: str) -> None:
    with pytest.raises(NotOurs):
        ENVELOPES.letter(forged)


def test_a_letter_signed_with_a_key_that_is_not_here_waits_for_it() -> None:
    elsewhere = KeyringEnvelopes(Keyring([OTHER_KEY])).envelope_id(LETTER, NOON)

    with pytest.raises(UnknownKey):
        ENVELOPES.letter(elsewhere or "")


def test_without_a_key_that_may_be_used_now_no_relay_is_asked() -> None:
    assert ENVELOPES.envelope_id(LETTER, NOON - S) is None
    assert ENVELOPES.envelope_id(LetterName(Lane.OTP, "has a blank", 1), NOON) is None


# Reports


@pytest.mark.parametrize(("action", "told"), ACTIONS.items(), ids=ACTIONS.keys())
def test_what_a_report_says(action: str, told: Told) -> None:
    assert read_report(report(action, envelope_id=OURS, status="4.7.1"), NOON + 60 * S) == [
        Reported(OURS, told, NOON, "4.7.1")
    ]


def test_the_time_of_the_last_try_counts_more_than_that_of_the_report_and_none_lies_ahead() -> None:
    about = "Action: delayed\r\nStatus: 4.7.1 (greylisted)\r\nLast-Attempt-Date: Wed, 25 Nov 2026 11:59:00 +0000\r\n"
    ahead = about.replace("11:59:00", "23:59:00")

    (before,) = read_report(report(groups=[about]), NOON + 60 * S)
    (clamped,) = read_report(report(groups=[ahead]), NOON + 60 * S)

    assert (before.at, before.status) == (NOON - 60 * S, "4.7.1")
    assert clamped.at == NOON + 60 * S


MALFORMED = {
    "empty": b"",
    "garbage": bytes(range(256)) * 40,
    "a letter": b"Subject: hello\r\n\r\nCould you call me?",
    "an auto-reply": b"Auto-Submitted: auto-replied\r\nContent-Type: text/plain; charset=x-no-such\r\n\r\n\xff\xfe",
    "a report of something else": report().replace(b"delivery-status", b"disposition-notification"),
    "no parts": b'Content-Type: multipart/report; boundary="b"\r\n\r\nnothing',
    "a lying charset": b'Content-Type: multipart/report; charset="utf-\xff"; boundary="\x00"\r\n\r\n--\x00\r\n',
    "parts without end": b'Content-Type: multipart/report; boundary="b"\r\n\r\n' + b"--b\r\n\r\n" * 5000,
    "nested without end": b"".join(
        b'Content-Type: multipart/report; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(2000)
    ),
}


@pytest.mark.parametrize("octets", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_report_of_a_delivery_tells_nothing(octets: bytes) -> None:
    with pytest.raises(NoUse):
        read_report(octets, NOON)


@pytest.mark.parametrize(
    "groups", [["Action: \r\n"], ["Action: exploded\r\n"], ["Status: 5.0.0\r\n"]], ids=["empty", "unknown", "none"]
)
def test_a_report_without_an_action_is_malformed(groups: list[str]) -> None:
    with pytest.raises(NoUse) as why:
        read_report(report(groups=groups), NOON)

    assert why.value.reason is Unusable.MALFORMED


def test_a_mail_that_went_in_circles_is_a_loop() -> None:
    hops = "".join(f"Received: from r{n} by r{n + 1}; Wed, 25 Nov 2026 12:00:00 +0000\r\n" for n in range(31))

    with pytest.raises(NoUse) as why:
        read_report(report(head=hops, envelope_id=OURS), NOON)

    assert why.value.reason is Unusable.LOOP


def test_words_in_any_charset_and_dates_of_no_calendar_change_nothing() -> None:
    odd = report(envelope_id=OURS, human="\udcff\udcfe Không tìm thấy").replace(b"us-ascii", b'"no-such-charset"')

    assert read_report(odd.replace(b"25 Nov 2026", b"99 Xyz 9999"), NOON)[0].told is Told.BOUNCED


@given(st.binary(max_size=2000))
def test_no_octets_break_the_reader(octets: bytes) -> None:
    for mail in (octets, report(envelope_id=OURS).replace(b"Reporting-MTA", octets)):
        with suppress(NoUse):
            read_report(mail, NOON)


def test_the_largest_mail_that_is_taken_is_read_within_a_moment() -> None:
    most = Limits().octets
    hostile = [
        b'Content-Type: multipart/report; boundary="b"\r\n\r\n' + b"--b\r\n" * (most // 5),
        report(groups=["Action: failed\r\n" * (most // 16)]),
        report(groups=["A: b\r\n\r\n" * (most // 8)]),
        b"A" * most,
        b"A: b\r\n" * (most // 6),
    ]

    for mail in hostile:
        started = time.process_time()
        with suppress(NoUse):
            read_report(mail[:most], NOON)
        assert time.process_time() - started < 1  # 0.03 s, on a machine that is busy with something else


# Settled


async def test_a_report_about_a_letter_of_ours_is_told_to_its_owner() -> None:
    door = Door()

    await door.take(report("failed", envelope_id=OURS))

    assert door.events.receipts == [(LETTER.id, Receipt(Told.BOUNCED, Source.DSN, NOON, "5.1.1"))]
    labels = {"source": "dsn", "told": "bounced"}
    assert door.registry.get_sample_value("mailer_receipts_total", labels) == 1


@pytest.mark.parametrize(
    ("mail", "reason"),
    [
        (report(), "no_envelope_id"),
        (report(envelope_id="otp.challenge-1.2"), "forged"),
        (report(envelope_id=OURS.replace(".2.", ".1.")), "forged"),
        (report(envelope_id="<script>alert(1)</script>"), "forged"),
        (b"hello", "no_report"),
        (report("exploded", envelope_id=OURS), "malformed"),
    ],
)
async def test_what_is_forged_or_foreign_has_no_effect_and_is_counted(mail: bytes, reason: str) -> None:
    door = Door()

    await door.take(mail)

    assert door.events.receipts == []
    assert door.ignored() == {reason: 1}


async def test_the_same_report_twice_is_told_once() -> None:
    door = Door()

    for _ in range(3):
        await door.take(report("delayed", envelope_id=OURS))

    assert len(door.events.receipts) == 1
    assert door.ignored() == {"repeated": 2}


@pytest.mark.parametrize("trouble", ["told", "note", "broker"])
async def test_what_cannot_be_settled_now_is_left_to_whoever_sent_it(trouble: str) -> None:
    door = Door()
    door.book.away_for = {trouble}
    door.events.failures_left = trouble == "broker"

    with pytest.raises((LedgerAway, TryAgain)):
        await door.take(report(envelope_id=OURS))
    door.book.away_for = set()
    await door.take(report(envelope_id=OURS))

    assert set(door.events.receipts) == {(LETTER.id, Receipt(Told.BOUNCED, Source.DSN, NOON, "5.1.1"))}
