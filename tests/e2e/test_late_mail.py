"""A late mail heals itself: on a real Postfix with an MX behind it that defers, refuses and is slow.

The stories of the first part run at the same time, on one stack; each test looks at what came of one. Then the relay is
away, and last the log is rotated, its follower killed, and otp's consumer stopped, all at once. What counts is what the
citizen has in hand: of every story that can end well, a code that is accepted.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from kip.mailer.v1 import mail_events_pb2 as mail_pb
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev import postfix_relay
from deploy.dev.server_process import ServerProcess
from tests.conditions import wait_until
from tests.e2e.late_stack import BY_ITSELF, IMPATIENT, LIFE_S, NAME, WITHIN_S, LateStack, causes, references
from tests.e2e.late_stories import (
    BOUNCES,
    STORIES,
    Braked,
    Healed,
    Ignored,
    Late,
    Story,
    Typed,
    asked,
    bounced_while_somebody_watches,
    news,
)
from tests.e2e.mailbox import code_in
from tests.e2e.metrics_page import page_of
from tests.e2e.portal import Citizen
from tests.e2e.replica import OtpReplica
from tests.servers.require import require

STOPPED_S = 30.0


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LateStack]:
    require(postfix_relay.why_missing())
    with LateStack(tmp_path_factory.mktemp("late")) as stack:
        yield stack


@pytest.fixture(scope="module")
def told(late: LateStack) -> Iterator[Mapping[str, Future[Any]]]:
    """All stories, which run at the same time, each with a caller of its own."""

    def run(tell: Story) -> Any:
        with late.portal() as portal:
            return tell(late, portal)

    with ThreadPoolExecutor(len(STORIES)) as threads:
        yield {name: threads.submit(run, tell) for name, tell in STORIES.items()}


def all_told(told: Mapping[str, Future[Any]]) -> None:
    """Wait until all stories have ended."""
    for future in told.values():
        future.exception()


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


def test_a_mail_that_the_mx_defers_for_a_moment_is_not_replaced_and_its_code_lives_from_its_delivery(
    told: Mapping[str, Future[Late]],
) -> None:
    seen = told["deferred_for_a_moment"].result()

    assert seen.typed_s > seen.handed_over_s + LIFE_S, "by the hand-over alone the code had expired"
    assert (seen.outcome, causes(seen.challenge), seen.mails) == ("accepted", ["requested"], 1)


def test_a_right_code_typed_too_late_five_times_brings_one_new_code_and_burns_no_attempt(
    told: Mapping[str, Future[Typed]],
) -> None:
    seen = told["typed_too_late_five_times"].result()

    assert seen.outcomes == ["expired"] * 5
    assert seen.replaced_by == {references(seen.challenge)[1]}
    assert seen.attempts_left[0] == seen.attempts_left[1]
    assert (seen.new_outcome, seen.mails) == ("accepted", 2)


def test_nine_of_ten_who_watch_know_of_a_bounce_within_a_second_all_within_two_and_see_the_alternatives(
    late: LateStack, told: Mapping[str, Future[Any]]
) -> None:
    """Within a second, from the line in the relay's log to the page, is what the way takes; nobody else is on it now.

    A hint that is lost costs a watcher two seconds. One of ten may meet a processor that is busy with something else.
    """
    all_told(told)
    with late.portal() as portal:
        seen = bounced_while_somebody_watches(late, portal)

    after_s = sorted(seconds for seconds, _ in seen)
    assert len(after_s) == BOUNCES
    assert after_s[-2] < 1, after_s
    assert after_s[-1] < 2, after_s
    for _, challenge in seen:
        assert challenge.advice.kind in {pb.ADVICE_KIND_OTHER_CHANNEL, pb.ADVICE_KIND_CALL}
        assert challenge.advice.alternatives == ["hotline"]
        assert challenge.advice.hotline.phone


def test_a_relay_that_stays_slow_gets_a_bounded_number_of_mails_and_the_citizen_another_way(
    told: Mapping[str, Future[tuple[pb.Challenge, int]]],
) -> None:
    challenge, mails = told["slow_for_ever"].result()

    assert challenge.stalled == pb.STALL_REASON_CHANNEL_SLOW
    assert causes(challenge) == ["requested", "reissued", "reissued"]
    assert mails == 3
    assert challenge.advice.kind in {pb.ADVICE_KIND_OTHER_CHANNEL, pb.ADVICE_KIND_CALL}
    assert challenge.advice.alternatives == ["hotline"]


def test_a_provider_that_makes_all_mails_late_gets_as_many_letters_by_itself_as_the_brake_allows_and_no_more(
    told: Mapping[str, Future[Braked]],
) -> None:
    seen = told["slow_provider"].result()

    assert seen.letters == BY_ITSELF < seen.wanted
    assert seen.held_back >= seen.wanted - BY_ITSELF - len(seen.at_once)


def test_whom_the_brake_holds_back_is_told_at_once_on_the_stream_that_the_channel_is_slow_and_where_else_to_turn(
    told: Mapping[str, Future[Braked]],
) -> None:
    seen = told["slow_provider"].result()

    assert len(seen.at_once) == seen.wanted // 2 - BY_ITSELF
    for challenge in seen.at_once:
        assert challenge.stalled == pb.STALL_REASON_CHANNEL_SLOW
        assert causes(challenge) == ["requested"], "held back at the first news that its letter is late"
        assert challenge.advice.kind in {pb.ADVICE_KIND_OTHER_CHANNEL, pb.ADVICE_KIND_CALL}
        assert challenge.advice.alternatives == ["hotline"]


def test_meanwhile_another_domain_heals_and_so_does_this_one_by_one_letter_for_ten_codes_in_time(
    told: Mapping[str, Future[Braked]],
) -> None:
    seen = told["slow_provider"].result()

    assert (causes(seen.elsewhere.challenge), seen.elsewhere.outcome) == (["requested", "reissued"], "accepted")
    assert seen.letters_later == 1


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


def test_dropped_at_its_deadline_a_letter_is_replaced_for_whoever_watches_and_not_when_nobody_waits(
    late: LateStack, told: Mapping[str, Future[Any]]
) -> None:
    all_told(told)  # the relay may go
    watching, gone = Citizen("lan"), Citizen("minh")
    late.relay.kill()
    with late.portal() as portal, late.portal() as page:
        handle, other = asked(portal, watching, IMPATIENT), asked(portal, gone, IMPATIENT)
        renewed = news(page, handle, lambda seen: len(seen.letters) == 2)
        late.relay.start()
        portal.wait_for_fate(other, "DROPPED")
        (mail,) = late.wait_for_mails(watching.email, 1)
        outcome, left_alone = portal.outcome(handle, code_in(mail)), portal.look(other)

    assert causes(renewed) == ["requested", "reissued"]
    assert mail.headers["X-Kip-Letter"].endswith(".2")
    assert outcome == "accepted"
    assert causes(left_alone) == ["requested"]
    assert late.mails(gone.email) == []


@dataclass
class Troubled:
    people: list[Citizen]
    handles: list[str]
    unheard: list[str]
    """Of whose hand-over otp had not heard when the mail was there."""
    joined: list[bool]
    typed: list[str]
    after: list[pb.Challenge]


@contextmanager
def _stopped(process: ServerProcess) -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def troubled(late: LateStack, tmp_path_factory: pytest.TempPathFactory) -> Troubled:
    """Ask for codes, most of which are mailed while nobody hears delivery events: one otp is stopped, one is deaf."""
    people = [Citizen("crowd") for _ in range(24)]
    otp, mailer, receipts = (late.stack[name] for name in ("otp", "mailer", "receipts"))
    with (
        OtpReplica(late.stack, tmp_path_factory.mktemp("deaf"), brokers="127.0.0.1:9") as deaf,
        late.portal() as portal,
        late.portal(deaf.addresses()["grpc"]) as beside,
    ):
        handles = [asked(portal, citizen) for citizen in people[:12]]
        late.relay.rotate_log(late.log_file.with_name("mail.log.1"))
        receipts.kill()
        with ExitStack() as letters_wait:
            letters_wait.enter_context(_stopped(mailer))
            handles += [asked(portal, citizen) for citizen in people[12:]]
            with _stopped(otp):
                since = time.monotonic()
                letters_wait.close()
                mails = [late.wait_for_mails(citizen.email, 1)[0] for citizen in people]
                receipts.start()
                unheard = [handle for handle in handles if beside.fate(handle) == "QUEUED"]
                again = [people[handles.index(handle)] for handle in unheard]
                joined = [beside.request(citizen, purpose=NAME).joined for citizen in again]
                typed = [beside.outcome(handle, code_in(mails[handles.index(handle)])) for handle in unheard]
                wait_until(lambda: time.monotonic() - since > STOPPED_S, within_s=2 * STOPPED_S, what="it is stopped")
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
    assert len(troubled.unheard) >= 12, "what was mailed while otp's consumer was stopped is not heard of"
    assert all(troubled.joined), "whoever asks again joins, and no second mail goes out"
    assert troubled.typed == ["accepted"] * len(troubled.unheard), "whoever has the mail in hand can use it"
    assert {tuple(causes(challenge)) for challenge in troubled.after} == {("requested",)}
    assert Counter(len(late.mails(citizen.email)) for citizen in troubled.people) == {1: len(troubled.people)}
    assert "otp_build_info" in page_of(late.stack.address("otp.http"))
