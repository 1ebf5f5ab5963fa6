"""Watching a challenge: each change at once, a lost hint two seconds later, from any replica, until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from services.otp.actions.watch import LEASE, LOOK_AGAIN
from services.otp.ports import StoreUnavailable
from services.otp.rules.challenge import State
from services.otp.rules.generation import Fate
from services.otp.rules.policy import AdviceKind
from services.otp.rules.view import ChallengeView
from tests.fakes.otp import PURPOSE, Breaks
from tests.unit.otp.desk import NO_HANDLE, Desk
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, after

LOOK_AGAIN_S = LOOK_AGAIN.total_seconds()
TURNS = 60  # of the event loop; no call of a fake takes more than a few


class Page:
    """Somebody who watches, and what they were shown; ended when the stream was."""

    def __init__(self, desk: Desk, handle: str, after_version: int, caller: str) -> None:
        self.seen: list[ChallengeView] = []
        self.reading = asyncio.create_task(self._read(desk, handle, after_version, caller))

    @property
    def has_ended(self) -> bool:
        return self.reading.done()

    @property
    def fates(self) -> list[Fate]:
        return [view.letters[0].fate for view in self.seen]

    async def _read(self, desk: Desk, handle: str, after_version: int, caller: str) -> None:
        async with aclosing(desk.watch(caller, handle, after_version)) as views:
            async for view in views:
                self.seen.append(view)


@asynccontextmanager
async def watching(desk: Desk, handle: str, after_version: int = 0, caller: str = "portal") -> AsyncIterator[Page]:
    """Watch while the context lasts."""
    page = Page(desk, handle, after_version, caller)
    await settled()
    try:
        yield page
    finally:
        page.reading.cancel()
        await asyncio.gather(page.reading, return_exceptions=True)


async def settled() -> None:
    """Let everything run that needs no time to pass: nothing here waits for anything but the clock of the test."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_a_page_is_shown_the_challenge_at_once_and_then_nothing_while_nothing_changes() -> None:
    desk = Desk()
    issued = await desk.ask()

    async with watching(desk, issued.handle) as page:
        for _ in range(5):
            desk.later(LOOK_AGAIN_S)
            await settled()

        assert page.seen == [issued.challenge]
        assert not page.has_ended


async def test_each_change_is_shown_at_once_though_no_time_passes() -> None:
    desk = Desk()
    issued = await desk.ask()

    async with watching(desk, issued.handle) as page:
        desk.later(LOOK_AGAIN_S / 2)
        await settled()
        for fate in (Fate.HANDED_OVER, Fate.DELIVERED):
            await desk.hear(issued, fate)
            await settled()
        for _ in range(3):
            desk.later(LOOK_AGAIN_S)
            await settled()

        assert page.fates == [Fate.QUEUED, Fate.HANDED_OVER, Fate.DELIVERED]
        versions = [view.version for view in page.seen]
        assert versions == sorted(set(versions))


async def test_a_hint_that_is_lost_costs_two_seconds_at_most() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.store.loses_hints = True

    async with watching(desk, issued.handle) as page:
        await desk.hand_over(issued)
        desk.later(LOOK_AGAIN_S - 0.001)
        await settled()
        before = page.fates
        desk.later(0.001)
        await settled()

        assert LOOK_AGAIN_S <= 2
        assert before == [Fate.QUEUED]
        assert page.fates == [Fate.QUEUED, Fate.HANDED_OVER]


async def test_what_only_time_changes_is_shown_too() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)

    async with watching(desk, issued.handle) as page:
        for _ in range(int((PURPOSE.spam_after + LOOK_AGAIN) / LOOK_AGAIN)):
            desk.later(LOOK_AGAIN_S)
            await settled()

        assert [view.advice and view.advice.kind for view in page.seen] == [AdviceKind.TYPE_IT, AdviceKind.CHECK_SPAM]
        assert page.seen[0].version < page.seen[1].version


async def test_a_stream_is_resumed_with_the_last_version_on_another_replica() -> None:
    desk = Desk()
    issued = await desk.ask()
    elsewhere = Desk(store=desk.store, mint=desk.mint)
    async with watching(desk, issued.handle) as page:
        last = page.seen[-1].version

    async with watching(elsewhere, issued.handle, after_version=last) as resumed:
        shown_at_once = list(resumed.seen)
        await desk.hand_over(issued)
        await settled()

        assert shown_at_once == []
        assert resumed.fates == [Fate.HANDED_OVER]


async def test_what_was_missed_between_two_streams_is_shown_at_once() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.later(6).hand_over(issued)

    async with watching(desk, issued.handle, after_version=issued.challenge.version) as resumed:
        assert resumed.fates == [Fate.HANDED_OVER]


async def test_what_time_alone_changed_between_two_streams_is_shown_at_once() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.later(GIVEN_UP_S + 0.001)

    async with watching(desk, issued.handle, after_version=issued.challenge.version) as resumed:
        assert resumed.fates == [Fate.DROPPED]


async def test_it_ends_when_the_challenge_is_verified() -> None:
    desk = Desk()
    issued = await desk.ask()

    async with watching(desk, issued.handle) as page:
        await desk.type_in(issued.handle, desk.code_of(issued))
        await settled()

        assert page.has_ended
        assert [view.state for view in (page.seen[0], page.seen[-1])] == [State.OPEN, State.VERIFIED]


async def test_it_ends_with_the_time_of_the_challenge() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)

    async with watching(desk, issued.handle) as page:
        desk.later(PURPOSE.challenge_life.total_seconds() + 0.001)
        await settled()

        assert page.has_ended
        assert page.seen[-1].state is State.ENDED


async def test_it_ends_when_the_last_attempt_is_spent() -> None:
    desk = Desk()
    handles = [(await desk.ask(f"key-{n}")).handle for n in range(3)]
    issued = await desk.ask()

    async with watching(desk, issued.handle) as page:
        for guess in range(PURPOSE.attempts):
            await desk.type_in(handles[guess // PURPOSE.attempts_per_handle], desk.wrong_code(issued, guess))
        await settled()

        assert page.has_ended
        assert page.seen[-1].state is State.SPENT


async def test_it_ends_when_its_handle_is_given_back_and_goes_on_for_the_others() -> None:
    desk = Desk()
    first, second = await desk.ask("key-1"), await desk.ask("key-2")

    async with watching(desk, first.handle) as closed, watching(desk, second.handle) as kept:
        await desk.cancel("portal", first.handle)
        await settled()

        assert (closed.has_ended, kept.has_ended) == (True, False)


async def test_resumed_after_the_end_it_shows_the_end_once_and_not_again() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.type_in(issued.handle, desk.code_of(issued))

    async with watching(desk, issued.handle, after_version=issued.challenge.version) as first:
        assert [view.state for view in first.seen] == [State.VERIFIED]
        assert first.has_ended
    async with watching(desk, issued.handle, after_version=first.seen[-1].version) as again:
        assert again.seen == []
        assert again.has_ended


@pytest.mark.parametrize("who", ["another caller", "an unknown handle", "nonsense", "a mistyped secret"])
async def test_for_a_stranger_it_ends_at_once_and_notes_nothing(who: str) -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.store.calls.clear()
    caller, handle = {
        "another caller": ("clinic", issued.handle),
        "an unknown handle": ("portal", NO_HANDLE),
        "nonsense": ("portal", "nonsense"),
        "a mistyped secret": ("portal", issued.handle[:-2]),
    }[who]

    async with watching(desk, handle, caller=caller) as page:
        assert page.has_ended
        assert page.seen == []
        assert desk.store.calls == ["load"]


async def test_two_who_watch_are_both_shown_each_change_with_their_own_attempts() -> None:
    desk = Desk()
    first, second = await desk.ask("key-1"), await desk.ask("key-2")

    async with watching(desk, first.handle) as one, watching(desk, second.handle) as other:
        await desk.type_in(first.handle, desk.wrong_code(first))
        await settled()

        assert [page.seen[-1].attempts_left for page in (one, other)] == [2, 3]
        await desk.hand_over(first)
        await settled()
        assert [page.fates[-1] for page in (one, other)] == [Fate.HANDED_OVER] * 2


async def test_place_and_expected_time_move_without_a_version() -> None:
    desk = Desk()
    desk.queue.committed, desk.queue.per_second = {0: 0}, 1
    await desk.ask("key-1", subject="citizen-8")
    issued = await desk.ask("key-2")

    async with watching(desk, issued.handle) as page:
        desk.queue.committed = {0: 1}
        desk.later(LOOK_AGAIN_S)
        await settled()

        letters = [view.letters[0] for view in page.seen]
        assert [(letter.place, letter.expected_at) for letter in letters] == [(1, after(1)), (0, after(2))]
        assert page.seen[0].version == page.seen[1].version == issued.challenge.version


async def test_a_store_that_goes_away_is_told_and_the_stream_can_be_resumed() -> None:
    desk = Desk()
    issued = await desk.ask()

    async with watching(desk, issued.handle) as page:
        desk.store.is_away = True
        desk.later(LOOK_AGAIN_S)
        await settled()

        with pytest.raises(StoreUnavailable):
            await page.reading
    desk.store.is_away = False
    async with watching(desk, issued.handle, after_version=page.seen[-1].version) as resumed:
        assert not resumed.has_ended


async def test_a_lease_that_cannot_be_noted_is_told_too() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.store.breaks_next("note_watched", Breaks.BEFORE)

    async with watching(desk, issued.handle) as page:
        with pytest.raises(StoreUnavailable):
            await page.reading


async def _watched_until_s(desk: Desk, challenge_id: str) -> float | None:
    loaded = await desk.store.load(desk.store.shard_of(challenge_id) or 0, challenge_ids=[challenge_id])
    until = loaded.notes[challenge_id].watched_until
    return None if until is None else (until - after(0)).total_seconds()


async def test_while_a_stream_is_open_its_lease_is_renewed_and_then_runs_out() -> None:
    desk = Desk()
    issued = await desk.ask()
    leases: list[float | None] = [await _watched_until_s(desk, issued.challenge.id)]

    async with watching(desk, issued.handle):
        for _ in range(10):
            leases.append(await _watched_until_s(desk, issued.challenge.id))
            desk.later(LOOK_AGAIN_S)
            await settled()
    desk.later(60)

    assert LEASE.total_seconds() == 15
    assert leases == [None, 15, 15, 15, 15, 23, 23, 23, 23, 31, 31]
    assert await _watched_until_s(desk, issued.challenge.id) == 31


async def test_a_letter_that_is_watched_near_its_deadline_is_kept_wanted_once_and_the_mailer_is_told() -> None:
    desk = Desk()
    issued = await desk.ask()
    due_s = D_S - PURPOSE.reserve.total_seconds()

    async with watching(desk, issued.handle) as page:
        desk.later(due_s - 0.001)
        await settled()
        not_yet = list(desk.events.published)
        desk.later(LOOK_AGAIN_S)
        await settled()

        extended_s = due_s - 0.001 + LOOK_AGAIN_S + D_S
        assert not_yet == [f"{issued.challenge.id}.1"]
        assert desk.events.published[1:] == [f"{issued.challenge.id}.1 wanted"]
        assert page.seen[-1].letters[0].wanted_until == after(extended_s)
        desk.later(extended_s - due_s - 30)
        await settled()
        assert len(desk.events.published) == 2
        assert desk.stored(issued).newest.wanted_until == after(extended_s)


async def test_two_who_watch_keep_a_letter_wanted_once() -> None:
    desk = Desk()
    first, second = await desk.ask("key-1"), await desk.ask("key-2")

    async with watching(desk, first.handle), watching(desk, second.handle):
        desk.later(D_S - 10)
        await settled()
        desk.later(LOOK_AGAIN_S)
        await settled()

        assert desk.events.published == [f"{first.challenge.id}.1", f"{first.challenge.id}.1 wanted"]


async def test_a_letter_that_nobody_watches_is_not_kept_wanted() -> None:
    desk = Desk()
    issued = await desk.ask()
    async with watching(desk, issued.handle):
        desk.later(LOOK_AGAIN_S)
        await settled()

    await desk.later(D_S - 10).get("portal", issued.handle)

    assert desk.stored(issued).newest.wanted_until == after(D_S)
