"""What is shown of an event: its public fields; never a seal's inside, octets, an address or a code."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from kip.mailer.v1 import mail_events_pb2, notice_events_pb2
from kip.otp.v1 import otp_events_pb2

from deploy.dead_letters.public_part import LONGEST, event_lines, shown, shown_octets

SECRET = b"the sealed octets of somebody"


def lines(message: Message) -> list[str]:
    return list(event_lines([("ce_type", message.DESCRIPTOR.full_name.encode())], message.SerializeToString()))


def test_an_order_shows_its_public_fields_and_of_its_seal_the_key_and_the_length() -> None:
    order = otp_events_pb2.CodeRequested(
        challenge_id="challenge-1",
        generation=2,
        reference="7F3K",
        replaces=["AAAA", "BBBB"],
        context_sha256=b"\x01" * 32,
        deadline=Timestamp(seconds=1_795_780_800),
        sealed=otp_events_pb2.Sealed(kid="s1", nonce=b"n" * 12, ciphertext=SECRET),
        code_in_subject=True,
    )

    assert lines(order) == [
        "event: kip.otp.v1.CodeRequested",
        "  challenge_id: challenge-1",
        "  generation: 2",
        "  reference: 7F3K",
        "  replaces: AAAA",
        "  replaces: BBBB",
        "  context_sha256: 32 octets",
        "  deadline: 2026-11-27T12:00:00Z",
        f"  sealed: sealed with key s1, {len(SECRET)} octets",
        "  code_in_subject: True",
    ]


def test_the_seal_of_a_notice_is_one_too() -> None:
    notice = notice_events_pb2.NoticeRequested(
        notice_id="n", sealed=notice_events_pb2.SealedBox(kid="n1", ciphertext=SECRET)
    )

    assert lines(notice)[-1] == f"  sealed: sealed with key n1, {len(SECRET)} octets"


def test_what_stands_inside_another_message_is_shown_below_it_with_its_words() -> None:
    told = mail_events_pb2.MailDelivery(
        owner_id="o",
        source=mail_events_pb2.SOURCE_SMTP_REPLY,
        dropped=mail_events_pb2.Dropped(reason=mail_events_pb2.DROP_REASON_DEADLINE),
    )

    assert lines(told)[2:] == ["  source: SOURCE_SMTP_REPLY", "  dropped:", "    reason: DROP_REASON_DEADLINE"]


def test_what_was_meant_to_be_sealed_and_is_not_is_masked_or_counted() -> None:
    part = otp_events_pb2.SealedPart(email="lan@example.vn", name="123456", padding=b"xx")

    assert lines(part)[1:] == ["  email: ***@***", "  name: ***", "  padding: 2 octets"]


def test_parameters_are_counted() -> None:
    part = notice_events_pb2.SealedNotice(parameters={"remark": "personal", "at": "x"})

    assert lines(part)[1:] == ["  parameters: 2 entries"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (b"kip.otp.v1.CodeRequested", "kip.otp.v1.CodeRequested"),
        (b"kip.otp.v9.NoSuchThing", "kip.otp.v9.NoSuchThing"),
        (b"", "(its headers do not say what it is)"),
        (b"lan@example.vn", "***@***"),
    ],
)
def test_what_does_not_decode_is_counted(kind: bytes, told: str) -> None:
    assert list(event_lines([("ce_type", kind)], b"\xff\xff")) == [f"event: 2 octets that do not decode as {told}"]


def test_a_time_of_no_era_is_told_as_that() -> None:
    order = otp_events_pb2.CodeRequested(deadline=Timestamp(seconds=10**15))

    assert lines(order)[1:] == ["  deadline: no time of this era"]


def test_text_of_others_cannot_move_the_cursor_or_fill_the_screen() -> None:
    assert "\x1b" not in shown("\x1b[2Jgone\nnext")
    assert "\n" not in shown("\x1b[2Jgone\nnext")
    assert len(shown("x" * 9_999)) == LONGEST
    assert (shown_octets(b"\xff\xfe"), shown_octets(None), shown_octets(b"key")) == ("2 octets", "", "key")


@given(st.binary(max_size=60), st.sampled_from(["kip.otp.v1.CodeRequested", "kip.mailer.v1.MailDelivery"]))
def test_any_octets_are_shown_as_lines_without_an_address(octets: bytes, kind: str) -> None:
    for line in event_lines([("ce_type", kind.encode())], octets + b"\x0a\x0elan@example.vn"):
        assert "lan@example.vn" not in line
        assert line.isprintable()
