"""What a dead letter says of itself, and what is left of it when it is put back and dies again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.dead_letter import (
    HEADERS,
    LONGEST_REASON,
    DeadKind,
    DeadLetter,
    dead_topic,
    headers_to_go_back,
    read_dead_letter,
)

AT = datetime(2026, 11, 27, 15, 0, 0, 250_000, timezone(timedelta(hours=7)))
ORIGINAL = {"ce_id": b"1", "expirytime": b"2026-11-27T08:14:00Z", "traceparent": b"00"}


def letter(offset: int = 7, kind: str = DeadKind.SEAL_BROKEN, reason: str = "it does not open") -> DeadLetter:
    return DeadLetter("otp.code-requested.v1", 3, offset, "mailer-otp", AT, kind, reason)


def test_its_headers_are_the_original_ones_and_where_when_why() -> None:
    assert dict(letter().headers(ORIGINAL)) == {
        **ORIGINAL,
        "dead-topic": b"otp.code-requested.v1",
        "dead-partition": b"3",
        "dead-offset": b"7",
        "dead-group": b"mailer-otp",
        "dead-at": b"2026-11-27T08:00:00.250Z",
        "dead-kind": b"seal-broken",
        "dead-reason": b"it does not open",
        "dead-times": b"1",
    }


def test_what_is_put_back_is_as_it_was_but_remembers_how_often_it_died() -> None:
    buried = letter().headers(ORIGINAL)

    assert dict(headers_to_go_back(buried)) == {**ORIGINAL, "dead-times": b"1"}


def test_what_dies_again_says_so_once_more_and_nothing_twice() -> None:
    back = dict(headers_to_go_back(letter().headers(ORIGINAL)))

    again = letter(offset=9, kind=DeadKind.HANDLER_FAILED).headers(back)

    assert len(again) == len(dict(again)) == len(ORIGINAL) + len(HEADERS)
    assert (dict(again)["dead-offset"], dict(again)["dead-kind"]) == (b"9", b"handler-failed")
    assert read_dead_letter(again).times == 2


def test_a_dead_letter_that_is_itself_consumed_and_dies_stacks_nothing() -> None:
    again = letter().headers(dict(letter().headers(ORIGINAL)))

    assert len(again) == len(ORIGINAL) + len(HEADERS)


@given(
    original=st.dictionaries(st.text(max_size=12).filter(lambda name: name not in HEADERS), st.binary(max_size=20)),
    reason=st.text(max_size=LONGEST_REASON, alphabet=st.characters(exclude_categories=["Cs"])),
    lives=st.integers(1, 4),
)
def test_whatever_it_carried_is_kept_over_all_its_lives(original: dict[str, bytes], reason: str, lives: int) -> None:
    headers: list[tuple[str, bytes]] = list(original.items())
    for offset in range(lives):
        headers = letter(offset, reason=reason).headers(dict(headers_to_go_back(headers)))

    told = read_dead_letter(headers)
    assert (told.offset, told.reason, told.times, told.at) == (lives - 1, reason, lives, AT)
    assert {name: value for name, value in headers if name not in HEADERS} == original


def test_a_reason_has_an_end() -> None:
    assert len(dict(letter(reason="x" * 9_999).headers({}))["dead-reason"]) == LONGEST_REASON


def test_one_of_an_older_release_is_read_too() -> None:
    old = [("dead-topic", b"t"), ("dead-partition", b"0"), ("dead-offset", b"5"), ("dead-reason", b"why")]

    assert read_dead_letter(old) == DeadLetter("t", 0, 5, "", None, "", "why", 1)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("dead-topic", b"t"), ("dead-partition", b"0")],
        [("dead-topic", b"t"), ("dead-partition", b"0"), ("dead-offset", b"-1")],
        [("dead-topic", None), ("dead-partition", b"0"), ("dead-offset", b"1")],
    ],
    ids=str,
)
def test_what_does_not_say_where_it_lay_is_none(headers: list[tuple[str, bytes | None]]) -> None:
    with pytest.raises(ValueError, match="header dead-"):
        read_dead_letter(headers)


@pytest.mark.parametrize("at", [b"", b"yesterday", b"2026-11-27T08:00:00"])
def test_a_time_that_is_none_is_not_known(at: bytes) -> None:
    place = [("dead-topic", b"t"), ("dead-partition", b"0"), ("dead-offset", b"5")]

    assert read_dead_letter([*place, ("dead-at", at)]).at is None


def test_dead_letters_lie_beside_their_topic_or_where_they_are_told_to() -> None:
    assert dead_topic("a.v1") == "a.v1.dead"
    assert dead_topic("mail.retry.otp.10s.v1", "otp.code-requested.v1.dead") == "otp.code-requested.v1.dead"


def test_only_what_tells_of_a_release_is_a_deploy_fault() -> None:
    assert {kind for kind in DeadKind if kind.is_deploy_fault} == {
        "undecodable",
        "unknown-template",
        "missing-parameter",
    }
    assert letter().at is not None
    assert AT.astimezone(UTC).hour == 8
