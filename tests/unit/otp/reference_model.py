"""What the design says of a code's life, said once more and plainly: what the service does is compared with it.

It knows one subject and one purpose, no keys, no store and no versions: only what people are answered and what the
mailer must hear. Everything changes in place. Instants are whole milliseconds since the beginning.
"""

from __future__ import annotations

from tests.unit.otp.reference_records import (
    CLAIM_KEPT,
    GRACE,
    KEPT,
    LATEST,
    LEASE,
    MOST_HANDLES,
    MOST_HANDLES_EVER,
    MOST_LIVE,
    MOST_REISSUES,
    MOST_WISHES,
    REPEATED,
    ROW_KEPT,
    STEP,
    Challenge,
    Claim,
    Entry,
    FateWord,
    Handle,
    Letter,
    Numbers,
    Outcome,
    S,
    Steps,
)


class ReferenceModel:
    """The whole of otp, for one subject."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.now = 0
        self.challenges: list[Challenge] = []
        self.wishes: list[Challenge] = []
        self.claims: dict[tuple[str, str], Claim] = {}
        self.failures: list[int] = []
        """When each of the wrong codes in a row was counted."""
        self.forbids: str | None = None
        """What forbids the machine a letter of its own."""
        self.announced: list[tuple[int, int, str]] = []
        """Challenge, letter, and what: letter, wanted, withdrawn."""

    # What is so, now.

    def good_until(self, challenge: Challenge, letter: Letter) -> int:
        numbers, heard = self.numbers, letter.heard
        arrived = max(heard.get("handed_over", -1), heard.get("delivered", -1))
        if arrived < 0:
            return min(letter.wanted + GRACE + numbers.max_life, challenge.ends)
        return min(arrived + numbers.life, heard.get("body", arrived) + numbers.max_life, challenge.ends)

    def is_live(self, challenge: Challenge, letter: Letter) -> bool:
        arrived = letter.heard.keys() & {"handed_over", "delivered"}
        is_killed = letter.heard.keys() & {"dropped", "refused"} and not letter.exposed and not arrived
        return not is_killed and not letter.told_expired and self.now <= self.good_until(challenge, letter)

    def live(self, challenge: Challenge) -> list[Letter]:
        return [letter for letter in challenge.letters if self.is_live(challenge, letter)][-MOST_LIVE:]

    def state(self, challenge: Challenge) -> str:
        if challenge.verified is not None:
            return "verified"
        if all(handle.given_back for handle in challenge.handles):
            return "cancelled"
        if self.now > challenge.ends:
            return "ended"
        return "spent" if challenge.attempts >= self.numbers.attempts else "open"

    def is_gone(self, challenge: Challenge) -> bool:
        return self.now >= challenge.ends + KEPT

    def attempts_left(self, challenge: Challenge, handle: Handle) -> int:
        numbers = self.numbers
        return max(min(numbers.attempts_per_handle - handle.attempts, numbers.attempts - challenge.attempts), 0)

    def resend_allowed_at(self, challenge: Challenge) -> float:
        cooled = challenge.newest.left_at() + self.numbers.cooldown(len(challenge.letters))
        ends = sorted(self.good_until(challenge, letter) for letter in self.live(challenge))
        if len(ends) < MOST_LIVE:
            return cooled
        return max(cooled, ends[-MOST_LIVE] + 0.001)  # good through its last instant

    def ask_anew_at(self, challenge: Challenge) -> int:
        newest = challenge.newest
        since = newest.made if newest.waits(self.now) else newest.left_at()
        return since + self.numbers.cooldown(len(challenge.letters))

    def locked_until(self) -> int | None:
        if not self.failures or len(self.failures) < 10:
            return None
        seconds = 24 * 3600 if len(self.failures) >= 100 else min(30 * 2 ** (len(self.failures) - 10), 3600)
        until = self.failures[-1] + seconds * S
        return until if self.now < until else None

    def instants(self) -> set[int]:
        """Return the limits that lie near: whoever looks a millisecond earlier or later sees another thing."""
        found = {claim.at + self.numbers.challenge_life for claim in self.claims.values()}
        found |= {self.locked_until() or 0}
        for challenge in self.challenges:
            ends = challenge.ends
            found |= {ends, ends - self.numbers.life, ends + KEPT, challenge.watched_until}
            found |= {self.ask_anew_at(challenge), int(self.resend_allowed_at(challenge))}
            found |= {entry.counted + REPEATED for entry in challenge.entries.values()}
            for letter in challenge.letters:
                given_up = letter.wanted + GRACE
                found |= {letter.wanted - self.numbers.reserve, letter.wanted, given_up}
                found |= {self.good_until(challenge, letter)}
        return found

    # What people and the mailer do.

    def time_passes(self, by: int) -> None:
        self.now += by
        self.wishes = [] if all(self.is_gone(wished) for wished in self.wishes) else self.wishes
        if self.failures and self.now >= self.failures[-1] + ROW_KEPT and not self.wishes:
            self.failures = []

    def request(self, caller: str, key: str, wish: str, *, is_answered: bool = True) -> Steps:
        yield from ()
        claim = self.claims.get((caller, key))
        is_new = claim is None or self.now >= claim.at + CLAIM_KEPT
        if claim is None or is_new:
            claim = self.claims[caller, key] = Claim(wish, self.now)
        if claim.body != wish:
            return ("reused",)
        mine = claim.challenge if claim.challenge and not self.is_gone(claim.challenge) else None
        if mine is None and not is_new and self.now > claim.at + self.numbers.challenge_life:
            return ("reused",)
        same = mine or self._wished(f"{caller} {wish}")
        decided = self._decided(caller, key, f"{caller} {wish}", same)
        if isinstance(decided, int):
            return ("too soon", decided)
        word, challenge, handle = decided
        if handle.given_back:
            return ("reused",)
        if is_answered or challenge.handles == [handle]:  # of a new challenge the claim has the id beforehand
            claim.challenge = challenge
        return (word, challenge.name, len(challenge.letters), handle.joined)

    def _wished(self, wish: str) -> Challenge | None:
        found = [each for each in self.wishes if each.wish == wish]
        return found[-1] if found and not self.is_gone(found[-1]) else None

    def _decided(self, caller: str, key: str, wish: str, same: Challenge | None) -> tuple[str, Challenge, Handle] | int:
        """Return what became of the wish, or how long to wait."""
        if same is not None:
            known = same.handle(caller, key)
            if known is not None:
                return "repeated", same, known
            if self.state(same) == "open":
                return self._asked_again(caller, key, same)
        latest = self.wishes[-1] if self.wishes and not self.is_gone(self.wishes[-1]) else None
        wait = self.ask_anew_at(latest) - self.now if latest else 0
        return wait if wait > 0 else self._opened(caller, key, wish)

    def _asked_again(self, caller: str, key: str, same: Challenge) -> tuple[str, Challenge, Handle] | int:
        held = [handle for handle in same.handles if not handle.given_back]
        has_room = len(held) < MOST_HANDLES and len(same.handles) < MOST_HANDLES_EVER
        handle = Handle(caller, key)
        if same.newest.waits(self.now):
            if not has_room:
                return self.numbers.cooldown(1)
            self._wanted_longer(same)
            handle.joined = True
            same.handles.append(handle)
            return "joined", same, handle
        allowed = self.resend_allowed_at(same)
        if self.now < allowed:
            return int(allowed - self.now)
        if not has_room or self.now + self.numbers.life >= same.ends:
            return self._opened(caller, key, same.wish)
        self._another(same, "requested")
        same.handles.append(handle)
        self._wish_kept(same)
        return "queued", same, handle

    def _opened(self, caller: str, key: str, wish: str) -> tuple[str, Challenge, Handle]:
        handle = Handle(caller, key)
        ends = self.now + self.numbers.challenge_life
        challenge = Challenge(len(self.challenges), wish, self.now, ends, [], [handle])
        self.challenges.append(challenge)
        self._another(challenge, "requested")
        self._wish_kept(challenge)
        return "queued", challenge, handle

    def _wish_kept(self, challenge: Challenge) -> None:
        others = [each for each in self.wishes if each is not challenge]
        self.wishes = [*others, challenge][-MOST_WISHES:]

    def _last_wanted(self, challenge: Challenge) -> int:
        return min(self.now + self.numbers.deadline, challenge.ends - self.numbers.life)

    def _another(self, challenge: Challenge, cause: str, click: tuple[Handle, str] | None = None) -> None:
        number = len(challenge.letters) + 1
        challenge.letters.append(Letter(number, cause, self.now, self._last_wanted(challenge), click))
        challenge.stalled = None
        self.announced.append((challenge.name, number, "letter"))

    def _wanted_longer(self, challenge: Challenge) -> bool:
        until = self._last_wanted(challenge)
        if until < challenge.newest.wanted + STEP:
            return False
        challenge.newest.wanted = until
        self.announced.append((challenge.name, challenge.newest.number, "wanted"))
        return True

    def _withdrawn(self, challenge: Challenge) -> None:
        if challenge.newest.waits(self.now):
            self.announced.append((challenge.name, challenge.newest.number, "withdrawn"))

    def _opens(self, challenge: Challenge, handle: Handle) -> bool:
        return not handle.given_back and not self.is_gone(challenge)

    def click(self, challenge: Challenge, handle: Handle, key: str) -> Steps:
        yield from ()
        is_known = self._opens(challenge, handle)
        if is_known and any(letter.click == (handle, key) for letter in challenge.letters):
            return ("queued",)
        if not is_known or self.state(challenge) != "open":
            return ("not_open",)
        if challenge.newest.waits(self.now):
            self._wanted_longer(challenge)
            return ("still_queued",)
        if self.now + self.numbers.life >= challenge.ends:
            return ("not_open",)
        if self.now < self.resend_allowed_at(challenge):
            return ("not_yet",)
        self._another(challenge, "resent", (handle, key))
        return ("queued",)

    def cancel(self, challenge: Challenge, handle: Handle) -> Steps:
        yield from ()
        if not self._opens(challenge, handle):
            return (False,)
        was = self.state(challenge)
        handle.given_back = True
        if self.state(challenge) == "cancelled" and was not in {"spent", "cancelled"}:
            self._withdrawn(challenge)
        return (True,)

    def unlock(self) -> Outcome:
        was_locked = self.locked_until() is not None
        self.failures = []
        return (was_locked,)

    def watch(self, challenge: Challenge, handle: Handle) -> bool:
        """Look once as a stream does; say whether that kept a letter wanted."""
        newest = challenge.newest
        if not self._opens(challenge, handle) or self.state(challenge) != "open":
            return False
        challenge.watched_until = self.now + LEASE
        is_due = newest.waits(self.now) and self.now >= newest.wanted - self.numbers.reserve
        if not is_due or newest.watch_used or not self._wanted_longer(challenge):
            return False
        newest.watch_used = True
        return True

    def verify(
        self, challenge: Challenge, handle: Handle, typed: str, right: set[int], key: str, *, dies: bool = False
    ) -> Steps:
        """Count, then judge; whoever `dies` does so in between."""
        if not self._opens(challenge, handle):
            return ("unknown",)
        entry = challenge.entries.get((handle, key)) if key else None
        if entry is None or self.now - entry.counted > REPEATED:
            locked = self._locked(challenge, handle)
            if locked is not None:
                return ("locked", locked)
            entry = self._counted(challenge, handle, typed, key)
            if dies:
                return ("died",)
        if entry.typed != typed:
            return ("reused",)
        yield
        if handle.given_back:
            return ("unknown",)
        if entry.answer is None:
            entry.answer = self._judged(challenge, handle, entry, right)
        return entry.answer

    def _counted(self, challenge: Challenge, handle: Handle, typed: str, key: str) -> Entry:
        entry = Entry(typed, self.now)
        self.failures.append(self.now)
        handle.attempts += 1
        challenge.attempts += 1
        if key:
            challenge.entries[handle, key] = entry
        return entry

    def _locked(self, challenge: Challenge, handle: Handle) -> int | None:
        if self.attempts_left(challenge, handle) == 0:
            return self.locked_until() or max(self.now, self.ask_anew_at(challenge))
        return self.locked_until()

    def _judged(self, challenge: Challenge, handle: Handle, entry: Entry, right: set[int]) -> Outcome:
        if not right:
            if self.state(challenge) == "spent":
                self._withdrawn(challenge)
            return ("wrong", self.attempts_left(challenge, handle))
        handle.attempts -= 1
        challenge.attempts -= 1
        if challenge.verified is None and any(letter.number in right for letter in self.live(challenge)):
            challenge.verified = self.now
            self.failures = []
            self._withdrawn(challenge)
            return ("accepted", self.now)
        if entry.counted in self.failures:
            self.failures.remove(entry.counted)
        if challenge.verified is not None:
            return ("used",)
        for letter in challenge.letters:
            letter.told_expired |= letter.number in right
        if not self._is_replaced(challenge, right):
            self._renew(challenge)
        return ("expired", challenge.newest.number if self._is_replaced(challenge, right) else None)

    def _is_replaced(self, challenge: Challenge, right: set[int]) -> bool:
        """Say whether a letter other than those typed is on its way, or there and of use."""
        newest = challenge.newest
        left = newest.heard.keys() & {"handed_over", "delivered", "said_delivered"}
        arrived = left and newest.fate(self.now) != "bounced"
        is_there = bool(arrived) and self.is_live(challenge, newest)
        return newest.number not in right and (newest.waits(self.now) or is_there)

    def hear(self, challenge: Challenge, number: int, fate: FateWord, at: int, also: int, *, exposed: bool) -> Steps:
        """Hear a fate; of a hand-over `also` is when its body began, of a deferral how long until the next try."""
        yield from ()
        if self.is_gone(challenge):
            return ("unknown",)
        if number > len(challenge.letters):
            return ("nothing new",)
        letter = challenge.letters[number - 1]
        before = (dict(letter.heard), letter.exposed)
        for word, instant in self._told(letter, fate, at, also).items():
            known = letter.heard.get(word, instant)
            letter.heard[word] = max(known, instant) if word in LATEST else min(known, instant)
        letter.exposed |= exposed and fate in {"dropped", "refused"}
        if before == (letter.heard, letter.exposed):
            return ("nothing new",)
        if letter is challenge.newest:
            is_lost = letter.fate(self.now) == "dropped" and "dropped" in letter.heard
            is_wanted = self.now < letter.wanted or self.now < challenge.watched_until
            if self._is_late(challenge, letter) or (is_lost and is_wanted):
                self._renew(challenge)
        return ("merged",)

    def _told(self, letter: Letter, fate: FateWord, at: int, also: int) -> dict[str, int]:
        told: dict[str, int] = {fate: min(max(at, letter.made), self.now)}
        if fate == "handed_over":
            told["body"] = min(max(also, letter.made), self.now)
        if fate == "deferred" and also:
            told["next_try"] = told[fate] + also
        return told

    def _is_late(self, challenge: Challenge, letter: Letter) -> bool:
        arrived = letter.arrived()
        if arrived is not None and arrived + self.numbers.reserve > self.good_until(challenge, letter):
            return True
        is_there = "handed_over" in letter.heard and letter.fate(self.now) == "deferred"
        if not is_there or "next_try" not in letter.heard:
            return False
        last = min(letter.heard["body"] + self.numbers.max_life, challenge.ends)
        return letter.heard["next_try"] + self.numbers.reserve > last

    def _renew(self, challenge: Challenge) -> None:
        """Make a letter without a click, or say why not."""
        if self.state(challenge) != "open" or challenge.newest.waits(self.now):
            return
        reissues = [letter for letter in challenge.letters if letter.cause == "reissued"]
        if self.now + self.numbers.life >= challenge.ends:
            challenge.stalled = "channel_slow"
        elif len(reissues) >= MOST_REISSUES:
            is_slow = all(self._is_late(challenge, letter) for letter in challenge.letters)
            challenge.stalled = "channel_slow" if is_slow else "budget"
        elif challenge.stalled in {"quota", "overload"} or len(self.live(challenge)) >= MOST_LIVE:
            return
        elif self.forbids:
            challenge.stalled = self.forbids
        else:
            self._another(challenge, "reissued")
