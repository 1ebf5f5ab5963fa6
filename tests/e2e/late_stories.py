"""Stories of late mail, each told by one citizen and a portal on a `LateStack`; what came of each is for the tests.

They touch nothing but their own addresses at the MX, so all may run at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from kip.mailer.v1 import mail_events_pb2 as mail_pb
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import Mail
from tests.conditions import wait_until
from tests.e2e.late_stack import BY_ITSELF, LIFE_S, MAX_LIFE_S, NAME, WITHIN_S, LateStack, wait_until_past
from tests.e2e.mailbox import code_in
from tests.e2e.portal import Citizen, Portal
from tests.servers.relay_reports import report

GREYLISTED = (450, "4.7.1 greylisted, please try again")
UNKNOWN_USER = (550, "5.1.1 no such user here")
BOUNCES = 10
REASONS = {
    "dsn": ["repeated", "outranked", "no_envelope_id", "forged", "no_report", "malformed"],
    "relay_log": ["unknown_letter", "garbage"],
}
"""For which receipts may be ignored, by their source."""

Story = Callable[[LateStack, Portal], Any]
Told = TypeVar("Told", bound=Story)
STORIES: dict[str, Story] = {}


def story(tell: Told) -> Told:
    """Let a story run with the others."""
    STORIES[tell.__name__] = tell
    return tell


def asked(portal: Portal, citizen: Citizen, purpose: str = NAME) -> str:
    return portal.request(citizen, purpose=purpose).handle


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def letters_of(portal: Portal, handle: str, number: int, *, within_s: float = WITHIN_S) -> pb.Challenge:
    """Wait until a challenge has so many letters."""
    wait_until(lambda: len(portal.look(handle).letters) >= number, within_s=within_s, what=f"letter {number}")
    return portal.look(handle)


def news(portal: Portal, handle: str, wanted: Callable[[pb.Challenge], bool]) -> pb.Challenge:
    """Watch until the stream shows that; return it."""
    return next(seen for seen in portal.watch(handle) if wanted(seen))


@dataclass
class Healed:
    """The MX defers for longer than a code may live."""

    challenge: pb.Challenge
    first: pb.VerifyCodeResponse
    outcome: str
    mails: list[Mail]


@story
def deferred_beyond_its_life(late: LateStack, portal: Portal, domain: str = "example.vn") -> Healed:
    citizen = Citizen("lan", domain=domain)
    late.answer(citizen.email, *GREYLISTED)
    handle = asked(portal, citizen)
    letters_of(portal, handle, 2)
    late.accept(citizen.email)
    mails = late.wait_for_mails(citizen.email, 2)
    by_letter = {mail.headers["X-Kip-Letter"].rpartition(".")[2]: code_in(mail) for mail in mails}
    left = portal.look(handle).letters[-1].handed_over_at
    left.seconds += MAX_LIFE_S
    wait_until_past(left)
    first = portal.verify(handle, by_letter["1"])
    outcome = portal.outcome(handle, by_letter["2"])
    return Healed(portal.look(handle), first, outcome, late.mails(citizen.email))


@dataclass
class Late:
    """The MX defers for a moment."""

    challenge: pb.Challenge
    handed_over_s: float
    typed_s: float
    outcome: str
    mails: int


@story
def deferred_for_a_moment(late: LateStack, portal: Portal) -> Late:
    citizen = Citizen("minh")
    late.answer(citizen.email, *GREYLISTED)
    handle = asked(portal, citizen)
    news(portal, handle, lambda seen: seen.letters[0].fate == pb.LETTER_FATE_DEFERRED)
    late.accept(citizen.email)
    (mail,) = late.wait_for_mails(citizen.email, 1)
    challenge = portal.wait_for_fate(handle, "DELIVERED")
    since = challenge.letters[0].handed_over_at
    since.seconds += LIFE_S
    wait_until_past(since)
    typed = time.time()
    outcome = portal.outcome(handle, code_in(mail))
    handed_over_s = since.seconds + since.nanos / 1e9 - LIFE_S
    return Late(portal.look(handle), handed_over_s, typed, outcome, len(late.mails(citizen.email)))


@dataclass
class Typed:
    """A right code is typed when it is too late."""

    outcomes: list[str]
    replaced_by: set[str]
    challenge: pb.Challenge
    attempts_left: tuple[int, int]
    new_outcome: str
    mails: int


@story
def typed_too_late_five_times(late: LateStack, portal: Portal) -> Typed:
    citizen = Citizen("hoa")
    handle = asked(portal, citizen)
    (mail,) = late.wait_for_mails(citizen.email, 1)
    before = portal.wait_for_fate(handle, "DELIVERED")
    wait_until(
        lambda: told_by_the_log(late, handle), within_s=WITHIN_S, what="the log tells of it, and so how long it lives"
    )
    wait_until(lambda: portal.look(handle).letters[0].good_until.ToDatetime() < utc_now(), within_s=WITHIN_S)
    answers = [portal.verify(handle, code_in(mail)) for _ in range(5)]
    mails = late.wait_for_mails(citizen.email, 2)
    challenge = portal.wait_for_fate(handle, "DELIVERED")
    new = portal.outcome(handle, code_in(mails[1]))
    return Typed(
        [str(answer.WhichOneof("outcome")) for answer in answers],
        {answer.expired.reference for answer in answers},
        challenge,
        (before.attempts_left, challenge.attempts_left),
        new,
        len(late.mails(citizen.email)),
    )


def bounced_while_somebody_watches(late: LateStack, portal: Portal) -> list[tuple[float, pb.Challenge]]:
    """Return how long after the line in the log the watcher knew, and what the watcher saw."""
    people = [Citizen("gone") for _ in range(BOUNCES)]
    for citizen in people:
        late.answer(citizen.email, *UNKNOWN_USER)

    def watch(citizen: Citizen) -> tuple[float, pb.Challenge]:
        handle = asked(portal, citizen)
        seen = news(portal, handle, lambda each: each.letters[0].fate == pb.LETTER_FATE_BOUNCED)
        return time.time(), seen

    written: dict[str, float] = {}
    done = threading.Event()

    def look_at_the_log() -> None:
        while not done.wait(0.02):
            lines = [line for line in late.log_text().splitlines() if "status=bounced" in line]
            for citizen in people:
                if citizen.mark not in written and any(citizen.mark in line for line in lines):
                    written[citizen.mark] = time.time()

    with ThreadPoolExecutor(BOUNCES + 1) as threads:
        looking = threads.submit(look_at_the_log)
        try:
            told = list(threads.map(watch, people))
        finally:
            done.set()
        looking.result()
    return [(at - written[citizen.mark], seen) for citizen, (at, seen) in zip(people, told, strict=True)]


@story
def slow_for_ever(late: LateStack, portal: Portal) -> tuple[pb.Challenge, int]:
    citizen = Citizen("binh")
    late.answer(citizen.email, *GREYLISTED)
    handle = asked(portal, citizen)
    stalled = news(portal, handle, lambda seen: seen.stalled != pb.STALL_REASON_UNSPECIFIED)
    written = late.log_text().count(f"to=<{citizen.email}>")
    assert written > 3, "the relay has tried again and again"
    return stalled, len(late.letters_to(citizen.email))


@dataclass
class Braked:
    """A provider makes all mails of its domain late, then those of some come in time again."""

    wanted: int
    """Letters that the machine would make for these people without a brake."""
    at_once: list[pb.Challenge]
    """What those saw first who were held back, when they were."""
    letters: int
    """Of all, when everybody was told that the channel is slow."""
    held_back: float
    elsewhere: Healed
    letters_later: int


@story
def slow_provider(late: LateStack, portal: Portal) -> Braked:
    domain, number = "slow.example", BY_ITSELF + 4
    late.answer(f"late.*@{domain}", *GREYLISTED)
    handles = [asked(portal, Citizen("late", domain=domain)) for _ in range(number)]

    def is_stalled(seen: pb.Challenge) -> bool:
        return seen.stalled != pb.STALL_REASON_UNSPECIFIED

    with ThreadPoolExecutor(number + 1) as threads:
        first = threads.map(
            lambda it: news(portal, it, lambda seen: is_stalled(seen) or len(seen.letters) > 1), handles
        )
        elsewhere = threads.submit(deferred_beyond_its_life, late, portal, "quick.example")
        at_once = [seen for seen in first if is_stalled(seen)]
        list(threads.map(lambda handle: news(portal, handle, is_stalled), handles))
    letters, held_back = len(late.letters_to(f"@{domain}")), late.held_back("domain")
    for citizen in [Citizen("soon", domain=domain) for _ in range(10)]:
        portal.wait_for_fate(asked(portal, citizen), "DELIVERED")
    before = letters + 10
    wait_until(lambda: len(late.letters_to(f"@{domain}")) > before, within_s=WITHIN_S, what="one more letter by itself")
    elsewhere_healed = elsewhere.result()
    return Braked(
        2 * number, at_once, letters - number, held_back, elsewhere_healed, len(late.letters_to(f"@{domain}")) - before
    )


@dataclass
class Ignored:
    """Receipts of no effect come in."""

    rose: dict[str, float]
    before: pb.Challenge
    after: pb.Challenge
    deferred: pb.Challenge
    outcome: str


@story
def forged_repeated_and_outranked(late: LateStack, portal: Portal) -> Ignored:
    delivered, waiting = Citizen("an"), Citizen("chi")
    late.answer(waiting.email, *GREYLISTED)
    handle, other = asked(portal, delivered), asked(portal, waiting)
    (mail,) = late.wait_for_mails(delivered.email, 1)
    portal.wait_for_fate(handle, "DELIVERED")
    portal.wait_for_fate(other, "DEFERRED")
    wait_until(lambda: told_by_the_log(late, handle) >= 1, within_s=WITHIN_S, what="the log has told of it")
    before, started = ignored(late), portal.look(handle)
    ours, theirs = (late.envelope_id(each.partition(".")[0], 1) for each in (handle, other))
    foreign = late.envelope_id(handle.partition(".")[0], 1, secret=b"a secret of somebody else, of 32")
    late.write_to_return_path(
        report("failed"),
        report("failed", envelope_id=foreign),
        report("failed", envelope_id=ours.replace(".1.", ".2.")),
        report("failed", envelope_id=ours),
        report("delayed", envelope_id=ours, status="4.7.1"),
        *[report("delayed", envelope_id=theirs, status="4.7.1")] * 3,
        report("exploded", envelope_id=ours),
        b"Subject: hello\r\n\r\nCould you call me?",
    )
    late.write_to_log(
        "Nov 27 12:00:00 relay postfix/smtp[1]: 9zzzWRONGzz: to=<a@example.vn>, relay=mx[192.0.2.1]:25, "
        "delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (550 no)",
        "\x00\x01 garbage \ufffd without end " * 40,
    )
    at_least = {"forged": 2, "no_envelope_id": 1, "outranked": 2, "repeated": 2, "unknown_letter": 1, "garbage": 1}
    wait_until(
        lambda: all(ignored(late)[reason] - before[reason] >= n for reason, n in at_least.items()),
        within_s=WITHIN_S,
        what=f"receipts that are ignored: {at_least}",
    )
    now = ignored(late)
    rose = {reason: now[reason] - before[reason] for reason in now}
    seen, deferred = portal.look(handle), portal.look(other)
    return Ignored(rose, started, seen, deferred, portal.outcome(handle, code_in(mail)))


def ignored(late: LateStack) -> dict[str, float]:
    return {reason: late.ignored(source, reason) for source, reasons in REASONS.items() for reason in reasons}


def told_by_the_log(late: LateStack, handle: str) -> int:
    """Return how often the log's word on a letter was published."""
    owner = handle.partition(".")[0]
    events = [event for _id, event in late.deliveries() if event.owner_id == owner]
    return sum(event.source == mail_pb.SOURCE_RELAY_LOG for event in events)
