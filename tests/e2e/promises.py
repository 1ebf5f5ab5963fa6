"""What crowds were promised, and whether it was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.dev.inbox.client import Summary
from tests.e2e.crowd import Crowd
from tests.e2e.mailbox import all_copies, code_in
from tests.e2e.metrics_page import page_of, total
from tests.e2e.portal import Citizen, Portal
from tests.e2e.quiet import wait_until_quiet
from tests.e2e.stacks import Running


@dataclass(frozen=True, slots=True)
class Promise:
    """One letter that somebody was promised."""

    letter: str
    """What its `X-Kip-Letter` says."""
    about: str
    """The handle of the challenge, or the id of the dossier."""


def code_crowd(portal: Portal, citizens: int) -> Crowd[Promise]:
    """Describe citizens who ask for a code each."""
    people = [Citizen("lan") for _ in range(citizens)]

    def press(number: int) -> Promise:
        asked = portal.request(people[number], key=people[number].mark)
        return Promise(f"{asked.challenge.challenge_id}.1", asked.handle)

    return Crowd(press, citizens)


def dossier_crowd(portal: Portal, citizens: int) -> Crowd[Promise]:
    """Describe citizens who file a dossier each."""
    people = [Citizen("Lan") for _ in range(citizens)]

    def press(number: int) -> Promise:
        opened = portal.open_dossier(people[number], key=people[number].mark)
        return Promise(f"{opened.steps[0].notice.notice_id}.1", opened.dossier_id)

    return Crowd(press, citizens)


def every_letter_is_there(
    running: Running, promised: Sequence[Promise], *, after: int
) -> tuple[Mapping[str, list[Summary]], int]:
    """Wait for each promised letter and for its copies, and see that no other came and that copies are the same bytes.

    Returns:
        the mails by letter, and how many came beyond one per letter.
    """
    letters = {promise.letter for promise in promised}
    assert len(letters) == len(promised), "two citizens were promised the same letter"
    all_copies(running.inbox, letters, after=after)
    wait_until_quiet(running)
    mails = all_copies(running.inbox, letters, after=after)
    assert mails.keys() == letters, "a letter came that nobody was promised"
    for copies in mails.values():
        assert len({running.inbox.raw(copy.id) for copy in copies}) == 1
    return mails, sum(map(len, mails.values())) - len(mails)


def every_code_is_accepted(running: Running, portal: Portal, promised: Sequence[Promise], *, after: int) -> int:
    """Read each promised letter and type its code; return how many mails came beyond one per letter."""
    mails, beyond = every_letter_is_there(running, promised, after=after)
    for promise in promised:
        code = code_in(running.inbox.mail(mails[promise.letter][0].id))
        assert portal.outcome(promise.about, code) == "accepted"
    return beyond


def letters_sent_blindly(running: Running) -> int:
    """Return how many times the mailer, since its start, went on without its ledger."""
    return int(total(page_of(running.stack.address("mailer.http")), "mailer_ledger_errors_total", lane="otp"))
