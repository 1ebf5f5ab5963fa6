"""From records to orders: what is read, what can never be, and how outcomes are counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from kip.mailer.v1 import notice_events_pb2
from kip.otp.v1 import otp_events_pb2
from prometheus_client import CollectorRegistry

from services.chassis.dead_letter import DeadKind
from services.chassis.keyring import Key, Keyring, Seal, SealBroken, UnknownKey
from services.chassis.record_fate import Poison, Record
from services.mailer.actions.bury import BuryLetter
from services.mailer.inbound.kafka_inbox import CodeOrders, DeadOrders, LetterInbox, NoticeOrders
from services.mailer.metrics import MailerMetrics
from services.mailer.ports import Carried, MovedOn, Owner, TakenOver, TryAgain, Unreadable
from services.mailer.rules.letter import Lane, Order
from services.mailer.rules.outcome import Dropped, DropReason, HandedOver, Outcome, Refused
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import RecordingEvents, code_order

RING = Keyring([Key("s1", b"made-up-secret-of-32-octets-0001", NOON - timedelta(days=1))])
CODES = CodeOrders(RING, ZoneInfo("Asia/Ho_Chi_Minh"))
PATIENCE = timedelta(hours=48)
NOTICES = NoticeOrders(RING, PATIENCE)
PART = otp_events_pb2.SealedPart(email="lan@example.vn", name="Lan", context="Cấp lại sổ")
NOTICE_PART = notice_events_pb2.SealedNotice(
    email="lan@example.vn", name="Lan", parameters={"remark": "x", "name": "?"}
)


def stamp(instant: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(instant)
    return made


def code_about(challenge: str = "challenge-1", generation: int = 1) -> tuple[str, str, str]:
    return ("kip.otp.v1.SealedPart", challenge, str(generation))


def sealed_code(plain: bytes | None = None, about: tuple[str, ...] = code_about()) -> otp_events_pb2.Sealed:
    seal = RING.seal(PART.SerializeToString() if plain is None else plain, about=about, now=NOON)
    return otp_events_pb2.Sealed(kid=seal.kid, nonce=seal.nonce, ciphertext=seal.ciphertext)


def code_requested(**changes: Any) -> otp_events_pb2.CodeRequested:
    fields: dict[str, Any] = {
        "challenge_id": "challenge-1",
        "generation": 1,
        "purpose": "confirm-email",
        "reference": "7F3K",
        "locale": "vi",
        "code_length": 6,
        "code_kid": "c1",
        "context_sha256": b"\x00" * 32,
        "life_s": 300,
        "max_life_s": 600,
        "asked_at": stamp(NOON),
        "deadline": stamp(NOON + timedelta(minutes=14)),
        "challenge_ends_at": stamp(NOON + timedelta(minutes=30)),
        "sealed": sealed_code(),
    }
    return otp_events_pb2.CodeRequested(**(fields | changes))


def notice_requested(**changes: Any) -> notice_events_pb2.NoticeRequested:
    seal = RING.seal(NOTICE_PART.SerializeToString(), about=("kip.mailer.v1.SealedNotice", "notice-1", "1"), now=NOON)
    fields: dict[str, Any] = {
        "notice_id": "notice-1",
        "letter": "dossier-opened",
        "locale": "en",
        "asked_at": stamp(NOON),
        "deadline": stamp(NOON + timedelta(hours=48)),
        "sealed": notice_events_pb2.SealedBox(kid=seal.kid, nonce=seal.nonce, ciphertext=seal.ciphertext),
    }
    return notice_events_pb2.NoticeRequested(**(fields | changes))


def record(value: bytes, headers: dict[str, bytes] | None = None) -> Record:
    return Record("otp.code-requested.v1", 3, 7, b"challenge-1", value, headers or {}, NOON, 5)


@dataclass
class Delivers:
    """Stands in for the verb: says what it is told to."""

    answer: Outcome | Exception

    def __post_init__(self) -> None:
        self.orders: list[Order] = []
        self.owners: list[Owner] = []

    async def __call__(self, order: Order, owner: Owner) -> Outcome:
        self.orders.append(order)
        self.owners.append(owner)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Defers:
    """Stands in for the verb: remembers what it is told."""

    def __init__(self, error: TryAgain | None = None) -> None:
        self.deferred: list[tuple[str, Carried, int, TryAgain]] = []
        self._error = error

    async def __call__(self, order: Order, carried: Carried, attempt: int, why: TryAgain) -> None:
        self.deferred.append((order.id, carried, attempt, why))
        if self._error:
            raise self._error


def inbox_of(
    deliver: Delivers, registry: CollectorRegistry | None = None, read: Any = CODES, defer: Defers | None = None
) -> LetterInbox:
    metrics = MailerMetrics(registry or CollectorRegistry())
    return LetterInbox(read, deliver, defer or Defers(), metrics)  # type: ignore[arg-type] # twins


def test_the_order_of_a_code_is_what_the_event_says() -> None:
    order = CODES(code_requested().SerializeToString())

    assert order.lane is Lane.OTP
    assert (order.id, order.letter, order.locale) == ("challenge-1.1", "code", "vi")
    assert (order.asked_at, order.deadline, order.useless_at) == (
        NOON,
        NOON + timedelta(minutes=14),
        NOON + timedelta(minutes=30),
    )
    assert order.parameters == {
        "reference": "7F3K",
        "replaces": "",
        "code_in_subject": "",
        "asked_at": "19:00:00, 25/11/2026",
        "life_minutes": "5",
        "ends_at": "19:30",
    }
    assert order.code is not None
    assert (order.code.kid, order.code.purpose, order.code.context_sha256, order.code.length) == (
        "c1",
        "confirm-email",
        b"\x00" * 32,
        6,
    )


def test_a_letter_that_replaces_others_names_them() -> None:
    order = CODES(code_requested(replaces=["K2PD", "9XW4"]).SerializeToString())

    assert order.parameters["replaces"] == "K2PD, 9XW4"


@pytest.mark.parametrize(("flag", "parameter"), [(True, "yes"), (False, "")])
def test_whether_the_code_stands_in_the_subject_is_what_the_event_says(*, flag: bool, parameter: str) -> None:
    order = CODES(code_requested(code_in_subject=flag).SerializeToString())

    assert order.parameters["code_in_subject"] == parameter


@pytest.mark.parametrize(("seconds", "shown"), [(300, "5"), (90, "1.5"), (600, "10"), (60, "1")])
def test_the_life_of_a_code_is_shown_in_minutes(seconds: int, shown: str) -> None:
    order = CODES(code_requested(life_s=seconds).SerializeToString())

    assert order.parameters["life_minutes"] == shown


def test_the_private_part_is_opened_only_when_it_is_asked_for() -> None:
    order = CODES(code_requested(sealed=sealed_code(about=code_about("another"))).SerializeToString())

    with pytest.raises(SealBroken):
        order.open()


def test_the_private_part_of_a_code_is_what_was_sealed() -> None:
    private = CODES(code_requested().SerializeToString()).open()

    assert private.email == "lan@example.vn"
    assert private.parameters == {"name": "Lan", "context": "Cấp lại sổ"}
    assert not private.decoy


def test_a_decoy_is_known_only_once_it_is_opened() -> None:
    plain = otp_events_pb2.SealedPart(email="x@example.vn", decoy=True).SerializeToString()

    assert CODES(code_requested(sealed=sealed_code(plain)).SerializeToString()).open().decoy


def test_a_seal_of_another_generation_does_not_open() -> None:
    event = code_requested(generation=2)

    with pytest.raises(SealBroken):
        CODES(event.SerializeToString()).open()


def test_a_seal_around_something_else_is_called_broken() -> None:
    event = code_requested(sealed=sealed_code(b"\xff\xff"))

    with pytest.raises(SealBroken):
        CODES(event.SerializeToString()).open()


def test_a_seal_of_a_key_that_is_not_here_yet_is_not_called_broken() -> None:
    event = code_requested(sealed=otp_events_pb2.Sealed(kid="s2", nonce=b"0" * 12, ciphertext=b"0" * 40))

    with pytest.raises(UnknownKey):
        CODES(event.SerializeToString()).open()


def test_the_order_of_a_notice_is_what_the_event_says() -> None:
    order = NOTICES(notice_requested().SerializeToString())

    assert order.lane is Lane.NOTICE
    assert (order.id, order.letter, order.locale, order.code) == ("notice-1.1", "dossier-opened", "en", None)
    assert (order.asked_at, order.deadline) == (NOON, NOON + timedelta(hours=48))
    assert order.useless_at == NOON + timedelta(days=30)
    assert order.open().email == "lan@example.vn"
    assert order.open().parameters == {"remark": "x", "name": "Lan"}


def test_a_notice_that_is_wanted_for_longer_than_we_are_patient_is_given_up_then() -> None:
    event = notice_requested(deadline=stamp(NOON + PATIENCE + timedelta(seconds=1)))

    assert NOTICES(event.SerializeToString()).deadline == NOON + PATIENCE
    assert NoticeOrders(RING, timedelta(hours=1))(event.SerializeToString()).deadline == NOON + timedelta(hours=1)


@pytest.mark.parametrize("locale", ["", "de", "VI", "x" * 1_000])
def test_a_language_that_we_do_not_write_is_vietnamese(locale: str) -> None:
    assert CODES(code_requested(locale=locale).SerializeToString()).locale == "vi"
    assert NOTICES(notice_requested(locale=locale).SerializeToString()).locale == "vi"


@pytest.mark.parametrize(
    "changes",
    [
        {"challenge_id": ""},
        {"generation": 0},
        {"code_length": 0},
        {"code_length": 19},
        {"code_length": 4_000_000_000},
        {"deadline": None},
        {"deadline": Timestamp(seconds=10**15)},
        {"asked_at": Timestamp(seconds=253402300799)},
    ],
    ids=str,
)
async def test_a_code_that_could_never_be_mailed_is_poison(changes: dict[str, Any]) -> None:
    deliver = Delivers(Refused(NOON, 550, ""))

    with pytest.raises(Poison, match=r"^otp\.code-requested\.v1: not an order: "):
        await inbox_of(deliver)(record(code_requested(**changes).SerializeToString()))

    assert deliver.orders == []


@pytest.mark.parametrize(
    "changes",
    [{"notice_id": ""}, {"letter": ""}, {"deadline": None}, {"asked_at": Timestamp(seconds=253402300799)}],
    ids=str,
)
async def test_a_notice_that_could_never_be_mailed_is_poison(changes: dict[str, Any]) -> None:
    with pytest.raises(Poison, match="not an order"):
        await inbox_of(Delivers(Refused(NOON, 550, "")), read=NOTICES)(
            record(notice_requested(**changes).SerializeToString())
        )


@given(octets=st.binary(max_size=200))
@pytest.mark.parametrize("read", [CODES, NOTICES])
def test_whatever_the_octets_are_they_are_an_order_or_a_reason(read: CodeOrders | NoticeOrders, octets: bytes) -> None:
    deliver = Delivers(Refused(NOON, 550, ""))
    running = inbox_of(deliver, read=read)(record(octets))

    with pytest.raises((Poison, StopIteration)) as end:  # it waits for nothing
        running.send(None)

    assert len(deliver.orders) == isinstance(end.value, StopIteration)


async def test_what_can_never_leave_is_poison_with_its_reason() -> None:
    error = Unreadable("no letter is called 'x'", DeadKind.UNKNOWN_TEMPLATE)

    with pytest.raises(Poison, match="no letter is called 'x'") as poison:
        await inbox_of(Delivers(error))(record(code_requested().SerializeToString()))

    assert poison.value.kind is DeadKind.UNKNOWN_TEMPLATE


async def test_what_is_no_order_is_called_undecodable() -> None:
    with pytest.raises(Poison) as poison:
        await inbox_of(Delivers(Refused(NOON, 550, "")))(record(b"\xff"))

    assert poison.value.kind is DeadKind.UNDECODABLE


def dead_orders(events: RecordingEvents, registry: CollectorRegistry, lane: Lane = Lane.OTP) -> DeadOrders:
    return DeadOrders(lane, BuryLetter(events, clock=FakeClock()), MailerMetrics(registry))


@pytest.mark.parametrize(
    ("lane", "key", "value", "letter"),
    [
        (Lane.OTP, b"challenge-1", code_requested(generation=2), "challenge-1.2"),
        (Lane.OTP, b"challenge-1", code_requested(code_length=99, deadline=None), "challenge-1.1"),
        (Lane.NOTICE, b"notice-1", notice_requested(), "notice-1.1"),
    ],
)
async def test_the_owner_of_a_dead_letter_is_told_that_it_may_still_leave(
    lane: Lane, key: bytes, value: Any, letter: str
) -> None:
    events, registry = RecordingEvents(), CollectorRegistry()
    dead = replace(record(value.SerializeToString()), key=key)

    await dead_orders(events, registry, lane)(dead, DeadKind.UNKNOWN_TEMPLATE)

    assert events.announced == [(letter, Dropped(NOON, DropReason.DEAD_LETTERED, exposed=True))]
    assert registry.get_sample_value("mailer_emails_total", {"lane": lane, "outcome": "dead_lettered"}) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"challenge-1", b"\xff"),
        (b"x", b"\x0a\x01x"),
        (b"another", code_requested().SerializeToString()),
        (b"", code_requested(challenge_id="").SerializeToString()),
    ],
    ids=["no message", "no generation", "another's key", "nobody"],
)
async def test_nobody_is_told_of_a_dead_letter_that_does_not_say_whose_it_is(key: bytes, value: bytes) -> None:
    events, registry = RecordingEvents(), CollectorRegistry()

    await dead_orders(events, registry)(replace(record(value), key=key), DeadKind.UNDECODABLE)

    assert events.announced == []
    assert registry.get_sample_value("mailer_emails_total", {"lane": "otp", "outcome": "dead_lettered"}) == 1


async def test_a_dead_letter_whose_owner_cannot_be_told_is_not_counted_yet() -> None:
    events, registry = RecordingEvents(), CollectorRegistry()
    events.failures_left = 1

    with pytest.raises(TryAgain):
        await dead_orders(events, registry)(record(code_requested().SerializeToString()), DeadKind.SEAL_BROKEN)

    assert registry.get_sample_value("mailer_emails_total", {"lane": "otp", "outcome": "dead_lettered"}) == 0


@pytest.mark.parametrize("error", [TakenOver(), ZeroDivisionError()])
async def test_any_other_error_passes_and_defers_nothing(error: Exception) -> None:
    defer = Defers()

    with pytest.raises(type(error)):
        await inbox_of(Delivers(error), defer=defer)(record(code_requested().SerializeToString()))

    assert defer.deferred == []


async def test_a_letter_that_cannot_leave_is_deferred_with_its_record_as_it_came() -> None:
    defer, why = Defers(), TryAgain("the relay said 450")
    value = code_requested().SerializeToString()

    await inbox_of(Delivers(why), defer=defer)(record(value, {"ce_id": b"x"}))

    carried = Carried("otp.code-requested.v1", 3, 7, b"challenge-1", value, {"ce_id": b"x"})
    assert defer.deferred == [("challenge-1.1", carried, 0, why)]


async def test_a_letter_that_cannot_be_deferred_either_waits_where_it_is() -> None:
    with pytest.raises(TryAgain, match="no broker"):
        await inbox_of(Delivers(TryAgain("450")), defer=Defers(TryAgain("no broker")))(
            record(code_requested().SerializeToString())
        )


async def test_a_record_of_which_a_later_one_is_in_a_tier_is_done_and_not_counted() -> None:
    registry, defer = CollectorRegistry(), Defers()

    await inbox_of(Delivers(MovedOn()), registry, defer=defer)(record(code_requested().SerializeToString()))

    assert defer.deferred == []
    assert registry.get_sample_value("mailer_emails_total", {"lane": "otp", "outcome": "dropped"}) == 0


@pytest.mark.parametrize(
    ("headers", "attempt"),
    [
        ({}, 0),
        ({"retry-attempt": b"3"}, 3),
        ({"retry-attempt": b"-3"}, 0),
        ({"retry-attempt": b"three"}, 0),
        ({"retry-attempt": b"9" * 10}, 0),
    ],
    ids=str,
)
async def test_who_tries_a_letter_is_told_by_its_record(headers: dict[str, bytes], attempt: int) -> None:
    deliver, defer = Delivers(TryAgain("450")), Defers()

    await inbox_of(deliver, defer=defer)(record(code_requested().SerializeToString(), headers))

    assert deliver.owners == [Owner(attempt, "otp.code-requested.v1", 5)]
    assert defer.deferred[0][2] == attempt


@pytest.mark.parametrize(
    ("outcome", "fate"),
    [
        (HandedOver(NOON + timedelta(seconds=2), NOON + timedelta(seconds=1), "relay-1", ""), "handed_over"),
        (Refused(NOON, 550, "5.1.1"), "refused"),
        (Dropped(NOON, DropReason.DEADLINE, exposed=False), "dropped"),
    ],
)
async def test_a_letter_is_counted_by_its_fate(outcome: Outcome, fate: str) -> None:
    registry = CollectorRegistry()

    await inbox_of(Delivers(outcome), registry)(record(code_requested().SerializeToString()))

    counts = {
        name: registry.get_sample_value("mailer_emails_total", {"lane": "otp", "outcome": name})
        for name in ("handed_over", "refused", "dropped")
    }
    assert counts == {name: float(name == fate) for name in counts}


async def test_the_age_of_a_letter_is_counted_from_the_wish_to_the_hand_over() -> None:
    registry = CollectorRegistry()
    outcome = HandedOver(NOON + timedelta(seconds=2.5), NOON + timedelta(seconds=2), "relay-1", "")

    await inbox_of(Delivers(outcome), registry)(record(code_requested().SerializeToString()))
    await inbox_of(Delivers(Refused(NOON, 550, "")))(record(code_requested().SerializeToString()))

    name = "mailer_email_age_at_dispatch_seconds"
    assert registry.get_sample_value(f"{name}_sum", {"lane": "otp"}) == 2.5
    assert registry.get_sample_value(f"{name}_count", {"lane": "otp"}) == 1
    assert registry.get_sample_value(f"{name}_count", {"lane": "notice"}) == 0


def test_an_order_shows_nothing_private() -> None:
    order = CODES(code_requested().SerializeToString())

    assert "lan@example.vn" not in f"{order!r} {order.open()!r} {Seal('s1', b'', b'')!r}"
    assert order.asked_at.tzinfo is UTC
    assert code_order().id == order.id
