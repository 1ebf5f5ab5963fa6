"""What a caller is shown of a challenge: no code, no address, and always what the citizen should do now.

**Version.** A stream is resumed with the last version seen, so what only time changes must count too: the number shown
is the record's version times 256, plus how many of its known instants (a letter given up, a code expired, "look in
spam", a cooldown over, the hotline opened or closed, the end) lie behind. It grows with each of them, and with each
commit of which anything is shown.

**Enumeration.** For a purpose that is `enumeration_safe` a caller sees nothing after the hand-over, and a refusal looks
like one: what happens to a mail later tells whether its mailbox exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.otp.rules.challenge import Challenge, Stall, State
from services.otp.rules.generation import Cause, Fate, Generation
from services.otp.rules.hotline import Hotline
from services.otp.rules.outlook import UNKNOWN, Outlook
from services.otp.rules.policy import AdviceKind, Policy, Purpose
from services.otp.rules.verdict import attempts_left

STEADY = timedelta(seconds=5)
VERSIONS = 256  # of what is shown, per version of the record


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do now, in words a page can show as they are."""

    kind: AdviceKind
    text: Mapping[str, str]
    until: datetime | None = None
    alternatives: tuple[str, ...] = ()
    hotline: Hotline | None = None


@dataclass(frozen=True, slots=True)
class LetterView:
    """One letter of the challenge."""

    reference: str
    fate: Fate
    cause: Cause
    queued_at: datetime
    wanted_until: datetime
    handed_over_at: datetime | None
    delivered_at: datetime | None
    good_until: datetime
    place: int | None = None
    expected_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ChallengeView:
    """A challenge, as one of its handles sees it."""

    id: str
    version: int
    purpose: str
    state: State
    code_length: int
    attempts_left: int
    resend_allowed_at: datetime
    ends_at: datetime
    verified_at: datetime | None
    letters: tuple[LetterView, ...]
    """Newest first."""
    advice: Advice | None
    """None once verified."""
    stalled: Stall | None = None


def seen_by(
    challenge: Challenge, place: int, purpose: Purpose, now: datetime, outlook: Outlook = UNKNOWN
) -> ChallengeView:
    """Return the challenge as the handle at `place` sees it at `now`; `outlook` is that of its newest letter."""
    shown = challenge.as_shown(purpose)
    letters = [_letter(generation, shown.ends_at, now) for generation in reversed(shown.generations)]
    if shown.newest.waits(now) and shown.newest.fate is Fate.QUEUED:  # one that is deferred has left the queue
        letters[0] = replace(letters[0], place=outlook.place, expected_at=outlook.leaves_at)
    return ChallengeView(
        id=shown.id,
        version=(shown.version - shown.unseen) * VERSIONS + min(_instants_passed(shown, purpose, now), VERSIONS - 1),
        purpose=shown.purpose,
        state=shown.state(purpose, now),
        code_length=shown.code_length,
        attempts_left=attempts_left(shown, place, purpose),
        resend_allowed_at=shown.resend_allowed_at(purpose, now),
        ends_at=shown.ends_at,
        verified_at=shown.verified_at,
        letters=tuple(letters),
        advice=_advice(shown, purpose, now),
        stalled=shown.stalled,
    )


def advice_to_nobody(policy: Policy) -> Advice | None:
    """Return what to do about a handle that opens nothing: ask anew, in the words of the first purpose.

    It is the same for every such handle, so that it tells nothing. `None` when there is no purpose.
    """
    first = next(iter(policy.purposes.values()), None)
    return Advice(AdviceKind.ASK_AGAIN, first.advice[AdviceKind.ASK_AGAIN]) if first else None


def is_news(seen: ChallengeView, last: ChallengeView) -> bool:
    """Say whether a watcher should be told; an expected time that moves by less than `STEADY` is no news."""
    if seen.version != last.version or len(seen.letters) != len(last.letters):
        return True
    now, before = seen.letters[0].expected_at, last.letters[0].expected_at
    if now is not None and before is not None and abs(now - before) < STEADY:
        seen = replace(seen, letters=(replace(seen.letters[0], expected_at=before), *seen.letters[1:]))
    return seen != last


def counted_if_unseen(before: Challenge, after: Challenge, purpose: Purpose) -> Challenge:
    """Return `after`; counted as unseen when callers are shown nothing of the change, so that no version tells it."""
    if not purpose.enumeration_safe or after.as_shown(purpose) != replace(
        before.as_shown(purpose), version=after.version
    ):
        return after
    return replace(after, unseen=after.unseen + 1)


def _instants_passed(challenge: Challenge, purpose: Purpose, now: datetime) -> int:
    instants = [challenge.ends_at, challenge.cooled_at(purpose)]
    for generation in challenge.generations:
        instants += [generation.given_up_at, generation.good_until(challenge.ends_at)]
        if generation.handed_over_at:
            instants.append(generation.handed_over_at + purpose.spam_after)
        if generation.next_try_at:
            instants.append(generation.next_try_at)
    turns = purpose.hotline.turns(challenge.made_at, now) if purpose.hotline else 0
    return sum(at < now for at in instants) + turns


def _letter(generation: Generation, challenge_ends_at: datetime, now: datetime) -> LetterView:
    return LetterView(
        reference=generation.reference,
        fate=Fate.DROPPED if generation.is_presumed_dropped(now) else generation.fate,
        cause=generation.cause,
        queued_at=generation.made_at,
        wanted_until=generation.wanted_until,
        handed_over_at=generation.handed_over_at,
        delivered_at=generation.arrived_at,
        good_until=generation.good_until(challenge_ends_at),
    )


def _advice(challenge: Challenge, purpose: Purpose, now: datetime) -> Advice | None:
    advised = _advised(challenge, purpose, now)
    if advised is None:
        return None
    kind, until = advised
    if kind is not AdviceKind.OTHER_CHANNEL:
        return Advice(kind, purpose.advice[kind], until)
    hotline = purpose.hotline
    if hotline is not None and hotline.is_open(now):
        kind = AdviceKind.CALL
    return Advice(kind, purpose.advice[kind], alternatives=purpose.alternatives, hotline=hotline)


def _advised(challenge: Challenge, purpose: Purpose, now: datetime) -> tuple[AdviceKind, datetime | None] | None:
    state = challenge.state(purpose, now)
    if state is State.VERIFIED:
        return None
    if state is not State.OPEN:
        return AdviceKind.ASK_AGAIN, challenge.ask_anew_at(purpose, now)
    newest = challenge.newest
    if newest.waits(now):
        return AdviceKind.WAIT, newest.wanted_until
    return _advised_of_what_left(challenge, purpose, now)


def _advised_of_what_left(challenge: Challenge, purpose: Purpose, now: datetime) -> tuple[AdviceKind, datetime | None]:
    newest = challenge.newest
    if challenge.stalled is not None or newest.fate in {Fate.BOUNCED, Fate.REFUSED}:
        return AdviceKind.OTHER_CHANNEL, None
    if newest.is_tried_in_time(challenge.ends_at, purpose.reserve, now):
        return AdviceKind.WAIT, newest.next_try_at
    if newest.is_presumed_dropped(now) or newest.fate is Fate.DROPPED or not newest.is_good(challenge.ends_at, now):
        return AdviceKind.ASK_AGAIN, challenge.resend_allowed_at(purpose, now)
    if newest.fate is Fate.DEFERRED:  # by the relay: it is on its way, and not in any spam folder yet
        return AdviceKind.WAIT, newest.good_until(challenge.ends_at)
    is_late = newest.fate is Fate.HANDED_OVER and now > newest.left_us_at + purpose.spam_after
    return (AdviceKind.CHECK_SPAM if is_late else AdviceKind.TYPE_IT), None
