"""A late mail heals itself: on a real Postfix with an MX behind it that defers, refuses and is slow.

The stories of the first part run at the same time, on one stack; each test looks at what came of one. Then the relay is
away, and last the log is rotated, its follower killed, and otp's consumer stopped, all at once. What counts is what the
citizen has in hand: of every story that can end well, a code that is accepted.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from kip.mailer.v1 import mail_events_pb2 as mail_pb
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev import postfix_relay
from deploy.dev.inbox.client import Mail
from tests.conditions import wait_until
from tests.e2e.late_stack import (
    IMPATIENT,
    LIFE_S,
    MAX_LIFE_S,
    NAME,
    WITHIN_S,
    LateStack,
    causes,
    references,
    wait_until_past,
)
from tests.e2e.mailbox import code_in
from tests.e2e.metrics_page import page_of
from tests.e2e.portal import Citizen, Portal
from tests.e2e.replica import OtpReplica
from tests.fakes.reports import report
from tests.servers.require import require

GREYLISTED = (450, "4.7.1 greylisted, please try again")
UNKNOWN_USER = (550, "5.1.1 no such user here")
STOPPED_S = 30.0
BOUNCES = 5


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LateStack]:
    require(postfix_relay.why_missing())
    with LateStack(tmp_path_factory.mktemp("late")) as stack:
        yield stack


Story = Callable[[LateStack, Portal], Any]
STORIES: dict[str, Story] = {}


def story(tell: Story) -> Story:
    """Let a story run with the others."""
    STORIES[tell.__name__] = tell
    return tell


@pytest.fixture(scope="module")
def told(late: LateStack) -> Iterator[Mapping[str, Future[Any]]]:
    """All stories, which run at the same time, each with a caller of its own."""

    def run(tell: Story) -> Any:
        with late.portal() as portal:
            return tell(late, portal)

    with ThreadPoolExecutor(len(STORIES)) as threads:
        yield {name: threads.submit(run, tell) for name, tell in STORIES.items()}


def _asked(portal: Portal, citizen: Citizen, purpose: str = NAME) -> str:
    return portal.request(citizen, purpose=purpose).handle


def _letters(portal: Portal, handle: str, number: int, *, within_s: float = WITHIN_S) -> pb.Challenge:
    """Wait until a challenge has so many letters."""
    wait_until(lambda: len(portal.look(handle).letters) >= number, within_s=within_s, what=f"letter {number}")
    return portal.look(handle)


def _news(portal: Portal, handle: str, wanted: Callable[[pb.Challenge], bool]) -> pb.Challenge:
    """Watch until the stream shows that; return it."""
    return next(seen for seen in portal.watch(handle) if wanted(seen))


# The MX defers for longer than a code may live.


@dataclass
class Healed:
    challenge: pb.Challenge
    first: pb.VerifyCodeResponse
    outcome: str
    mails: list[Mail]


@story
def deferred_beyond_its_life(late: LateStack, portal: Portal) -> Healed:
    citizen = Citizen("lan")
    late.answer(citizen.email, *GREYLISTED)
    handle = _asked(portal, citizen)
    _letters(portal, handle, 2)
    late.accept(citizen.email)
    mails = late.wait_for_mails(citizen.email, 2)
    by_letter = {mail.headers["X-Kip-Letter"].rpartition(".")[2]: code_in(mail) for mail in mails}
    left = portal.look(handle).letters[-1].handed_over_at
    left.seconds += MAX_LIFE_S
    wait_until_past(left)
    first = portal.verify(handle, by_letter["1"])
    outcome = portal.outcome(handle, by_letter["2"])
    return Healed(portal.look(handle), first, outcome, late.mails(citizen.email))


def test_a_mail_that_the_mx_defers_beyond_the_life_of_its_code_is_replaced_and_the_new_code_is_accepted(
    told: Mapping[str, Future[Healed]],
) -> None:
    seen = told["deferred_beyond_its_life"].result()

    assert causes(seen.challenge) == ["requested", "reissued"]
    assert seen.first.WhichOneof("outcome") == "expired"
    assert seen.first.expired.reference == references(seen.challenge)[1]
    assert seen.outcome == "accepted"
    assert len(seen.mails) == 2


def test_the_new_letter_says_that_it_replaces_the_late_one_with_both_references(
    told: Mapping[str, Future[Healed]],
) -> None:
    seen = told["deferred_beyond_its_life"].result()

    first, second = references(seen.challenge)
    (letter,) = [mail for mail in seen.mails if mail.headers["X-Kip-Letter"].endswith(".2")]
    assert f"Thư này thay cho thư trước bị chậm (mã tham chiếu {first})." in (letter.text or "")
    assert f"This mail replaces an earlier one that was late (reference {first})." in (letter.text or "")
    assert second in (letter.subject or "")


# The MX defers for a moment.


@dataclass
class Late:
    challenge: pb.Challenge
    handed_over_s: float
    typed_s: float
    outcome: str
    mails: int


@story
def deferred_for_a_moment(late: LateStack, portal: Portal) -> Late:
    citizen = Citizen("minh")
    late.answer(citizen.email, *GREYLISTED)
    handle = _asked(portal, citizen)
    _news(portal, handle, lambda seen: seen.letters[0].fate == pb.LETTER_FATE_DEFERRED)
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


def test_a_mail_that_the_mx_defers_for_a_moment_is_not_replaced_and_its_code_lives_from_its_delivery(
    told: Mapping[str, Future[Late]],
) -> None:
    seen = told["deferred_for_a_moment"].result()

    assert seen.typed_s > seen.handed_over_s + LIFE_S, "by the hand-over alone the code had expired"
    assert (seen.outcome, causes(seen.challenge), seen.mails) == ("accepted", ["requested"], 1)


# Right, but too late.


@dataclass
class Typed:
    outcomes: list[str]
    replaced_by: set[str]
    challenge: pb.Challenge
    attempts_left: tuple[int, int]
    new_outcome: str
    mails: int


@story
def typed_too_late_five_times(late: LateStack, portal: Portal) -> Typed:
    citizen = Citizen("hoa")
    handle = _asked(portal, citizen)
    (mail,) = late.wait_for_mails(citizen.email, 1)
    before = portal.wait_for_fate(handle, "DELIVERED")
    wait_until_past(before.letters[0].good_until)
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


def test_a_right_code_typed_too_late_five_times_brings_one_new_code_and_burns_no_attempt(
    told: Mapping[str, Future[Typed]],
) -> None:
    seen = told["typed_too_late_five_times"].result()

    assert seen.outcomes == ["expired"] * 5
    assert seen.replaced_by == {references(seen.challenge)[1]}
    assert seen.attempts_left[0] == seen.attempts_left[1]
    assert (seen.new_outcome, seen.mails) == ("accepted", 2)


# Bounced.


@story
def bounced_while_somebody_watches(late: LateStack, portal: Portal) -> list[tuple[float, pb.Challenge]]:
    """Return how long after the line in the log the watcher knew, and what the watcher saw."""
    people = [Citizen("gone") for _ in range(BOUNCES)]
    for citizen in people:
        late.answer(citizen.email, *UNKNOWN_USER)

    def watch(citizen: Citizen) -> tuple[float, pb.Challenge]:
        handle = _asked(portal, citizen)
        seen = _news(portal, handle, lambda each: each.letters[0].fate == pb.LETTER_FATE_BOUNCED)
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


def test_of_a_bounce_the_watcher_knows_within_a_second_and_sees_the_alternatives(
    told: Mapping[str, Future[list[tuple[float, pb.Challenge]]]],
) -> None:
    seen = told["bounced_while_somebody_watches"].result()

    after_s = sorted(seconds for seconds, _ in seen)
    assert after_s[0] < 1, "what the way takes; the others may have met a processor that was busy with seven stories"
    assert after_s[-1] < 5
    for _, challenge in seen:
        assert challenge.advice.kind in {pb.ADVICE_KIND_OTHER_CHANNEL, pb.ADVICE_KIND_CALL}
        assert challenge.advice.alternatives == ["hotline"]
        assert challenge.advice.hotline.phone


# Slow for ever.


@story
def slow_for_ever(late: LateStack, portal: Portal) -> tuple[pb.Challenge, int]:
    citizen = Citizen("binh")
    late.answer(citizen.email, *GREYLISTED)
    handle = _asked(portal, citizen)
    stalled = _news(portal, handle, lambda seen: seen.stalled != pb.STALL_REASON_UNSPECIFIED)
    written = late.log_text().count(f"to=<{citizen.email}>")
    assert written > 3, "the relay has tried again and again"
    queued = {line.split(": ")[1] for line in late.log_text().splitlines() if f"to=<{citizen.email}>" in line}
    return stalled, len(queued)


def test_a_relay_that_stays_slow_gets_a_bounded_number_of_mails_and_the_citizen_another_way(
    told: Mapping[str, Future[tuple[pb.Challenge, int]]],
) -> None:
    challenge, mails = told["slow_for_ever"].result()

    assert challenge.stalled == pb.STALL_REASON_CHANNEL_SLOW
    assert causes(challenge) == ["requested", "reissued", "reissued"]
    assert mails == 3
    assert challenge.advice.kind in {pb.ADVICE_KIND_OTHER_CHANNEL, pb.ADVICE_KIND_CALL}
    assert challenge.advice.alternatives == ["hotline"]


# Receipts of no effect.


@dataclass
class Ignored:
    rose: dict[str, float]
    before: pb.Challenge
    after: pb.Challenge
    deferred: pb.Challenge
    outcome: str


REASONS = {
    "dsn": ["repeated", "outranked", "no_envelope_id", "forged", "no_report", "malformed"],
    "relay_log": ["unknown_letter"],
}


@story
def forged_repeated_and_outranked(late: LateStack, portal: Portal) -> Ignored:
    delivered, waiting = Citizen("an"), Citizen("chi")
    late.answer(waiting.email, *GREYLISTED)
    handle, other = _asked(portal, delivered), _asked(portal, waiting)
    (mail,) = late.wait_for_mails(delivered.email, 1)
    portal.wait_for_fate(handle, "DELIVERED")
    portal.wait_for_fate(other, "DEFERRED")
    wait_until(lambda: _told_of(late, handle) >= 1, within_s=WITHIN_S, what="the log has told of it")
    before, started = _ignored(late), portal.look(handle)
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
    at_least = {"forged": 2, "no_envelope_id": 1, "outranked": 2, "repeated": 2, "unknown_letter": 1}
    wait_until(
        lambda: all(_ignored(late)[reason] - before[reason] >= n for reason, n in at_least.items()),
        within_s=WITHIN_S,
        what=f"receipts that are ignored: {at_least}",
    )
    now = _ignored(late)
    rose = {reason: now[reason] - before[reason] for reason in now}
    seen, deferred = portal.look(handle), portal.look(other)
    return Ignored(rose, started, seen, deferred, portal.outcome(handle, code_in(mail)))


def _ignored(late: LateStack) -> dict[str, float]:
    return {reason: late.ignored(source, reason) for source, reasons in REASONS.items() for reason in reasons}


def _told_of(late: LateStack, handle: str) -> int:
    """Return how often the log's word on a letter was published."""
    owner = handle.partition(".")[0]
    events = [event for _id, event in late.deliveries() if event.owner_id == owner]
    return sum(event.source == mail_pb.SOURCE_RELAY_LOG for event in events)


def test_forged_repeated_reordered_and_foreign_receipts_have_no_effect_and_are_counted(
    told: Mapping[str, Future[Ignored]],
) -> None:
    seen = told["forged_repeated_and_outranked"].result()

    assert seen.rose["forged"] == 2
    assert seen.rose["no_envelope_id"] == 1
    assert (seen.rose["no_report"], seen.rose["malformed"]) == (1, 1)
    assert seen.rose["outranked"] >= 2
    assert seen.rose["repeated"] >= 2
    before, after = seen.before.letters[0], seen.after.letters[0]
    assert (after.fate, after.delivered_at, after.good_until) == (before.fate, before.delivered_at, before.good_until)
    assert len(seen.after.letters) == len(seen.deferred.letters) == 1
    assert seen.outcome == "accepted"


# The relay is away until the deadline.


def test_dropped_at_its_deadline_a_letter_is_replaced_for_whoever_watches_and_not_when_nobody_waits(
    late: LateStack, told: Mapping[str, Future[Any]]
) -> None:
    for future in told.values():
        future.exception()  # all stories have ended: the relay may go
    watching, gone = Citizen("lan"), Citizen("minh")
    late.relay.kill()
    with late.portal() as portal, late.portal() as page:
        handle, other = _asked(portal, watching, IMPATIENT), _asked(portal, gone, IMPATIENT)
        renewed = _news(page, handle, lambda seen: len(seen.letters) == 2)
        late.relay.start()
        portal.wait_for_fate(other, "DROPPED")
        (mail,) = late.wait_for_mails(watching.email, 1)
        outcome, left_alone = portal.outcome(handle, code_in(mail)), portal.look(other)

    assert causes(renewed) == ["requested", "reissued"]
    assert mail.headers["X-Kip-Letter"].endswith(".2")
    assert outcome == "accepted"
    assert causes(left_alone) == ["requested"]
    assert late.mails(gone.email) == []


# Log rotated, follower killed, otp's consumer stopped.


@dataclass
class Troubled:
    people: list[Citizen]
    handles: list[str]
    unheard: list[str]
    """Of whose hand-over otp had not heard when the mail was there."""
    joined: list[bool]
    typed: list[str]
    after: list[pb.Challenge]


@pytest.fixture(scope="module")
def troubled(late: LateStack, tmp_path_factory: pytest.TempPathFactory) -> Troubled:
    people = [Citizen("crowd") for _ in range(24)]
    with OtpReplica(late.stack, tmp_path_factory.mktemp("replica")) as replica, late.portal() as portal:
        os.kill(replica.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            handles = [_asked(portal, citizen) for citizen in people[:12]]
            late.relay.rotate_log(late.log_file.with_name("mail.log.1"))
            late.stack["receipts"].kill()
            handles += [_asked(portal, citizen) for citizen in people[12:]]
            mails = [late.wait_for_mails(citizen.email, 1)[0] for citizen in people]
            late.stack["receipts"].start()
            unheard = [handle for handle in handles if portal.fate(handle) == "QUEUED"]
            joined = [portal.request(people[handles.index(handle)], purpose=NAME).joined for handle in unheard]
            typed = [portal.outcome(handle, code_in(mails[handles.index(handle)])) for handle in unheard[:3]]
            wait_until(lambda: time.monotonic() - stopped > STOPPED_S, within_s=2 * STOPPED_S, what="it stays stopped")
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        for handle in handles:
            wait_until(
                lambda: portal.look(handle).letters[0].HasField("delivered_at"),  # noqa: B023 - called in this round
                within_s=WITHIN_S,
                what="otp hears of the delivery",
            )
        return Troubled(people, handles, unheard, joined, typed, [portal.look(handle) for handle in handles])


def test_a_rotated_log_and_a_follower_killed_in_the_middle_lose_no_receipt_and_none_is_told_twice(
    late: LateStack, troubled: Troubled
) -> None:
    owners = {handle.partition(".")[0] for handle in troubled.handles}

    def told() -> Mapping[str, set[str]]:
        """Return the ids of what the log has told of each letter; a notification may have come first."""
        ids: dict[str, set[str]] = defaultdict(set)
        for event_id, event in late.deliveries():
            if event.owner_id in owners and event.source == mail_pb.SOURCE_RELAY_LOG:
                ids[event.owner_id].add(event_id)
        return ids

    wait_until(lambda: told().keys() == owners, within_s=WITHIN_S, what="the log has told of every letter")
    assert {owner: len(ids) for owner, ids in told().items()} == dict.fromkeys(owners, 1)
    assert late.log_file.with_name("mail.log.1").stat().st_size > 0


def test_while_delivery_events_come_half_a_minute_late_nothing_breaks_and_no_mail_is_sent_twice(
    late: LateStack, troubled: Troubled
) -> None:
    assert len(troubled.unheard) >= 3, "otp's consumer was stopped, and half of the events were not heard"
    assert all(troubled.joined), "whoever asks again joins, and no second mail goes out"
    assert troubled.typed == ["accepted"] * len(troubled.typed)
    assert {tuple(causes(challenge)) for challenge in troubled.after} == {("requested",)}
    assert Counter(len(late.mails(citizen.email)) for citizen in troubled.people) == {1: len(troubled.people)}
    assert "otp_build_info" in page_of(late.stack.address("otp.http"))
