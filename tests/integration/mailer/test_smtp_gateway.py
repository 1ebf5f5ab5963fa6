"""The gateway's pool of connections, its slots and its counts, before a real relay that follows a script."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import pytest

from services.mailer.outbound.smtp_gateway import MAILS_PER_CONNECTION, REMEMBERED, Relay, relay_tls
from services.mailer.ports import TryAgain
from tests.conditions import eventually
from tests.integration.inbox.running_inbox import RunningInbox, start_inbox
from tests.integration.mailer.smtp_wire import (
    COUNTED,
    FAULTS,
    HANDED_OVER,
    HASTY_S,
    NOTHING_LEFT,
    PATIENT_S,
    SILENCE_S,
    SLOTS,
    STAGES,
    SmtpWire,
    Steps,
    letter,
    result_of,
    smtp_wire,
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", STAGES)
async def test_a_connection_is_used_again_after_a_clean_reply_only(inbox: RunningInbox, stage: str, fault: str) -> None:
    client = inbox.client
    counted = COUNTED.get(fault, fault.replace(" ", "_"))
    async with smtp_wire(inbox, timeout_s=HASTY_S if fault == "silence" else PATIENT_S) as smtp:
        await result_of(smtp, Steps(), letter())
        before = client.stats()
        if stage == "connect":  # a rule for the greeting needs a new connection
            await smtp.gateway.close()
        smtp.behave({"stage": stage, "times": 1, **FAULTS[fault]})

        await result_of(smtp, Steps(), letter(2))
        await result_of(smtp, Steps(), letter(3))

    assert getattr(client.stats(), counted)[stage] == getattr(before, counted)[stage] + 1, "the fault happened"
    made = client.stats().connections - before.connections
    # A second greeting that the kernel delivers apart, between two commands, is dropped by the library: in step again.
    in_step_again = (stage, fault) == ("connect", "double reply") and made == 1
    assert in_step_again or made == (2 if stage == "connect" else 1), "the broken one was not used again"
    if (stage, fault) != ("connect", "silence"):  # the inbox notices a client's leaving only after its greeting
        await eventually(lambda: client.stats().open_connections < before.open_connections, what="all are closed")


async def test_one_connection_carries_many_letters_and_then_a_new_one_is_made(smtp: SmtpWire) -> None:
    made = smtp.connections()

    for number in range(MAILS_PER_CONNECTION):
        assert await result_of(smtp, Steps(), letter(number)) == HANDED_OVER
    assert smtp.connections() == made + 1

    assert await result_of(smtp, Steps(), letter()) == HANDED_OVER
    assert smtp.connections() == made + 2


async def test_there_are_never_more_connections_than_slots(inbox: RunningInbox, smtp: SmtpWire) -> None:
    before = inbox.client.stats()
    smtp.behave({"stage": "reply", "action": "delay", "delay_s": 0.2})
    most = 0

    sending = asyncio.gather(*(result_of(smtp, Steps(), letter(number)) for number in range(4 * SLOTS)))
    while not sending.done():
        most = max(most, (await asyncio.to_thread(inbox.client.stats)).open_connections - before.open_connections)

    assert set(await sending) == {HANDED_OVER}
    assert most == inbox.client.stats().connections - before.connections == SLOTS
    assert smtp.count("mailer_send_slots") == SLOTS
    assert smtp.count("mailer_send_slots_in_use") == 0


async def test_a_connection_that_rested_too_long_is_not_used_again(inbox: RunningInbox) -> None:
    before = inbox.client.stats()
    async with smtp_wire(inbox, idle_s=0.05) as smtp:
        await result_of(smtp, Steps(), letter())
        rested = time.monotonic() + 0.06
        await eventually(lambda: time.monotonic() > rested)

        assert await result_of(smtp, Steps(), letter(2)) == HANDED_OVER

    assert inbox.client.stats().connections == before.connections + 2
    await eventually(lambda: inbox.client.stats().open_connections == before.open_connections)


async def test_a_letter_that_is_cancelled_takes_its_connection_and_its_slot_with_it(smtp: SmtpWire) -> None:
    before = smtp.inbox.client.stats()
    smtp.behave({"stage": "rcpt", "action": "delay", "delay_s": SILENCE_S, "times": SLOTS})
    waiting = [asyncio.create_task(result_of(smtp, Steps(), letter(number))) for number in range(SLOTS)]
    await eventually(lambda: smtp.times_used() == [SLOTS], what="every slot waits for the relay")

    for task in waiting:
        task.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)

    assert {type(result) for result in results} <= {asyncio.CancelledError, str}
    await eventually(
        lambda: smtp.inbox.client.stats().open_connections == before.open_connections, what="they are closed"
    )
    assert await result_of(smtp, Steps(), letter()) == HANDED_OVER
    assert smtp.connections() == before.connections + SLOTS + 1
    assert smtp.count("mailer_send_slots_in_use") == 0


async def test_a_relay_that_goes_away_is_found_again(tmp_path: Path) -> None:
    first = start_inbox(tmp_path)
    async with smtp_wire(first) as smtp:
        assert await result_of(smtp, Steps(), letter()) == HANDED_OVER
        assert await asyncio.to_thread(first.stop) == 0

        assert await result_of(smtp, Steps(), letter(2)) == NOTHING_LEFT
        assert await result_of(smtp, Steps(), letter(2)) == NOTHING_LEFT

        second = await asyncio.to_thread(start_inbox, tmp_path, "--smtp-port", str(first.smtp_port))
        assert await result_of(smtp, Steps(), letter(2)) == HANDED_OVER
    assert await asyncio.to_thread(second.stop) == 0


@pytest.mark.parametrize(
    ("tls", "password"), [(True, None), (False, "made-up-secret")], ids=["no starttls", "no authentication"]
)
async def test_a_relay_that_cannot_do_what_is_demanded_gets_nothing(
    inbox: RunningInbox, *, tls: bool, password: str | None
) -> None:
    address = f"127.0.0.1:{inbox.smtp_port}"
    relay = Relay("relay-1", address, relay_tls(None) if tls else None, "mailer" if password else None, password)

    async with smtp_wire(inbox, relay=relay) as smtp:
        with pytest.raises(TryAgain, match="cannot be reached") as error:
            await smtp.gateway.send(letter(), Steps())

    assert "made-up-secret" not in str(error.value)
    assert smtp.arrived() == []


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        (None, "accepted"),
        ({"stage": "rcpt", **FAULTS["4xx"]}, "deferred"),
        ({"stage": "rcpt", **FAULTS["5xx"]}, "refused"),
        ({"stage": "connect", **FAULTS["cut"]}, "connect_error"),
        ({"stage": "mail", **FAULTS["cut"]}, "cut"),
        ({"stage": "reply", **FAULTS["cut"]}, "no_reply"),
    ],
)
async def test_every_transaction_is_counted_by_how_it_ended(
    smtp: SmtpWire, rule: dict[str, object] | None, result: str
) -> None:
    smtp.behave(*[rule] if rule else [])

    await result_of(smtp, Steps(), letter())

    counts = {
        name: smtp.count("mailer_smtp_attempts_total", result=name)
        for name in ("accepted", "deferred", "refused", "connect_error", "cut", "no_reply", "not_wanted")
    }
    assert counts == {name: float(name == result) for name in counts}
    assert smtp.count("mailer_smtp_transaction_duration_seconds_count") == float(result == "accepted")


async def test_a_decoy_holds_its_slot_as_long_as_letters_lately_did(inbox: RunningInbox) -> None:
    async with smtp_wire(inbox, slots=1) as smtp:
        smtp.behave({"stage": "rcpt", "action": "delay", "delay_s": 0.02})
        for number in range(REMEMBERED):  # so many that the first guess is forgotten
            await result_of(smtp, Steps(), letter(number))
        smtp.behave()
        started = time.monotonic()

        imitating = asyncio.gather(*(smtp.gateway.imitate(Steps()) for _ in range(3)))
        await result_of(smtp, Steps(), letter())

    assert all(answer.at - answer.body_started_at >= timedelta(seconds=0.02) for answer in await imitating)
    assert time.monotonic() - started >= 3 * 0.02, "one after the other, and the letter after them"
