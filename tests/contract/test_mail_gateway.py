"""What `MailGateway` promises, asked of the twin in memory and of the real one before a relay that follows a script.

The table `EXPECTED` is the heart: whatever happens at whatever stage of a conversation, the answer says no more than is
known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from services.chassis.clock import system_clock
from services.mailer.ports import NoLongerWanted, TryAgain
from tests.fakes.mailer import PRIVATE
from tests.integration.inbox.running_inbox import RunningInbox, start_inbox
from tests.integration.mailer.smtp_wire import (
    FAULTS,
    HANDED_OVER,
    HASTY_S,
    NOT_TAKEN,
    NOTHING_LEFT,
    PATIENT_S,
    REFUSED,
    SILENCE_S,
    SLOTS,
    UNKNOWN,
    SmtpWire,
    Steps,
    Wire,
    WireInMemory,
    letter,
    result_of,
    smtp_wire,
)

EXPECTED = {
    ("connect", "4xx"): NOTHING_LEFT,
    ("connect", "5xx"): NOTHING_LEFT,  # 554: this host does not talk to us now; no word about the letter
    ("connect", "cut"): NOTHING_LEFT,
    ("connect", "silence"): NOTHING_LEFT,
    ("connect", "half line"): NOTHING_LEFT,
    ("connect", "double reply"): NOTHING_LEFT,
    ("mail", "4xx"): NOTHING_LEFT,
    ("mail", "5xx"): REFUSED,
    ("mail", "cut"): NOTHING_LEFT,
    ("mail", "silence"): NOTHING_LEFT,
    ("mail", "half line"): NOTHING_LEFT,
    ("mail", "double reply"): NOTHING_LEFT,
    ("rcpt", "4xx"): NOTHING_LEFT,
    ("rcpt", "5xx"): REFUSED,
    ("rcpt", "cut"): NOTHING_LEFT,
    ("rcpt", "silence"): NOTHING_LEFT,
    ("rcpt", "half line"): NOTHING_LEFT,
    ("rcpt", "double reply"): NOTHING_LEFT,
    ("data", "4xx"): NOTHING_LEFT,
    ("data", "5xx"): REFUSED,
    ("data", "cut"): NOTHING_LEFT,
    ("data", "silence"): NOTHING_LEFT,
    ("data", "half line"): NOTHING_LEFT,
    ("data", "double reply"): NOTHING_LEFT,
    ("body", "4xx"): NOT_TAKEN,
    ("body", "5xx"): REFUSED,
    ("body", "cut"): UNKNOWN,
    ("body", "silence"): UNKNOWN,
    ("body", "half line"): UNKNOWN,
    ("body", "double reply"): NOT_TAKEN,  # two times 421
    ("reply", "4xx"): NOT_TAKEN,
    ("reply", "5xx"): REFUSED,
    ("reply", "cut"): UNKNOWN,
    ("reply", "silence"): UNKNOWN,
    ("reply", "half line"): UNKNOWN,
    ("reply", "double reply"): HANDED_OVER,
}
ROWS = pytest.mark.parametrize(("stage", "fault"), EXPECTED, ids=lambda word: word.replace(" ", "-"))


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInbox]:
    running = start_inbox(tmp_path_factory.mktemp("inbox"))
    yield running
    assert running.stop() == 0


@pytest.fixture
async def smtp(request: pytest.FixtureRequest, inbox: RunningInbox) -> AsyncIterator[SmtpWire]:
    is_silent = {"silence", "delay"} & set(map(str, request.node.callspec.params.values()))
    async with smtp_wire(inbox, timeout_s=HASTY_S if is_silent else PATIENT_S) as wire:
        yield wire


@pytest.fixture(params=["memory", "smtp"])
def wire(request: pytest.FixtureRequest) -> Wire:
    if request.param == "memory":
        return WireInMemory()
    wire: SmtpWire = request.getfixturevalue("smtp")
    return wire


class MailGatewayContract:
    """Obligations of `MailGateway`."""

    async def test_a_letter_that_the_relay_takes_is_handed_over_unchanged(self, wire: Wire) -> None:
        before = system_clock()
        steps = Steps()

        assert await result_of(wire, steps, letter()) == HANDED_OVER

        assert steps.asked == 2
        assert steps.began is not None
        assert before <= steps.began <= system_clock()
        assert wire.arrived() == [(PRIVATE.email, letter().octets)]

    async def test_a_line_that_begins_with_dots_arrives_with_its_dots(self, wire: Wire) -> None:
        dotted = replace(letter(), octets=b".\r\n..x\r\n\r\n.\r\nQUIT\r\n...\r\n")

        assert await result_of(wire, Steps(), dotted) == HANDED_OVER

        assert [octets for _, octets in wire.arrived()] == [dotted.octets]

    @ROWS
    async def test_the_answer_says_no_more_than_is_known(self, wire: Wire, stage: str, fault: str) -> None:
        wire.behave({"stage": stage, "times": 1, **FAULTS[fault]})

        result = await result_of(wire, Steps(), letter())

        assert wire.times_used() == [1], "the fault happened"
        assert result == EXPECTED[stage, fault]

    @ROWS
    async def test_after_any_fault_the_next_letter_goes_out(self, wire: Wire, stage: str, fault: str) -> None:
        wire.behave({"stage": stage, "times": 1, **FAULTS[fault]})
        await result_of(wire, Steps(), letter())
        seen = len(wire.arrived())

        assert await result_of(wire, Steps(), letter(2, "minh@example.vn")) == HANDED_OVER

        assert wire.arrived()[seen:] == [("minh@example.vn", letter(2, "minh@example.vn").octets)]

    @pytest.mark.parametrize(("stage", "action"), [("reply", "cut"), ("reply", "half_line"), ("reply", "delay")])
    async def test_what_the_relay_kept_without_a_word_is_unknown(self, wire: Wire, stage: str, action: str) -> None:
        delay = {"delay_s": SILENCE_S} if action == "delay" else {}
        wire.behave({"stage": stage, "action": action, "store": True, "times": 1, **delay})

        assert await result_of(wire, Steps(), letter()) == UNKNOWN

        assert wire.arrived() == [(PRIVATE.email, letter().octets)]

    async def test_a_letter_that_is_not_wanted_before_mail_is_not_begun(self, wire: Wire) -> None:
        wire.behave({"stage": "mail", "action": "cut"})

        with pytest.raises(NoLongerWanted):
            await wire.gateway.send(letter(), Steps([False]))

        assert wire.times_used() == [0]

    async def test_a_letter_that_is_not_wanted_before_data_stops_there(self, wire: Wire) -> None:
        wire.behave({"stage": "data", "action": "cut"})
        steps = Steps([True, False])

        with pytest.raises(NoLongerWanted):
            await wire.gateway.send(letter(), steps)

        assert (wire.times_used(), steps.began) == ([0], None)
        assert wire.arrived() == []

    async def test_when_the_body_cannot_be_noted_it_does_not_leave(self, wire: Wire) -> None:
        with pytest.raises(TryAgain, match="ledger"):
            await wire.gateway.send(letter(), Steps(fails=TryAgain("the ledger is away")))

        assert wire.arrived() == []
        assert await result_of(wire, Steps(), letter()) == HANDED_OVER

    async def test_a_decoy_sends_nothing_and_looks_handed_over(self, wire: Wire) -> None:
        steps = Steps()

        answer = await wire.gateway.imitate(steps)

        assert steps.asked >= 1
        assert answer.at >= answer.body_started_at
        assert answer.route == "relay-1"
        assert wire.arrived() == []

    async def test_a_decoy_that_is_not_wanted_is_not_imitated(self, wire: Wire) -> None:
        with pytest.raises(NoLongerWanted):
            await wire.gateway.imitate(Steps([False]))

    async def test_more_letters_than_slots_wait_their_turn_and_all_arrive(self, wire: Wire) -> None:
        letters = [letter(number, f"lan+{number}@example.vn") for number in range(4 * SLOTS)]

        results = await asyncio.gather(*(result_of(wire, Steps(), each) for each in letters))

        assert set(results) == {HANDED_OVER}
        assert sorted(wire.arrived()) == sorted((each.recipient, each.octets) for each in letters)


class TestMailGateway(MailGatewayContract):
    """Both twins."""
