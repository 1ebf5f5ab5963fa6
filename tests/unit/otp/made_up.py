"""Values that the tests of otp's rules are made of: everything happens some seconds after noon."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

from services.otp.rules.challenge import Challenge, Fresh, Handle, SealedPart
from services.otp.rules.generation import Cause, Delivery, Fate, Generation
from services.otp.rules.policy import GRACE
from services.otp.rules.request import GivenBack, Joined, Queued, Repeated, TooSoon, Wish, decide_request
from services.otp.rules.subject import Subject
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE

MS = timedelta(milliseconds=1)
D_S = PURPOSE.deadline.total_seconds()
GIVEN_UP_S = D_S + GRACE.total_seconds()
"""When a letter of noon that nobody has heard of is presumed dropped."""
SEALED = SealedPart("s1", b"n" * 12, b"sealed")


def after(seconds: float) -> datetime:
    """Return an instant that many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def generation(number: int = 1, **seen: Any) -> Generation:
    """Return a generation of noon; its instants are given as seconds after noon."""
    fields: dict[str, Any] = {
        "reference": f"REF{number:02}",
        "made_at": NOON,
        "wanted_until": NOON + PURPOSE.deadline,
        "cause": Cause.REQUESTED,
        "life": PURPOSE.life,
        "max_life": PURPOSE.max_life,
    }
    for name, value in seen.items():
        is_instant = name.endswith("_at") or name == "wanted_until"
        fields[name] = after(value) if is_instant else value
    return Generation(number=number, code_kid="c1", **fields)


def handle(caller: str = "portal", key: str = "key-0") -> Handle:
    """Return a handle of a made-up secret."""
    return Handle(caller, hashlib.sha256(key.encode()).digest())


def challenge(*generations: Generation, **fields: Any) -> Challenge:
    """Return a challenge of noon with one handle."""
    return Challenge(
        **{
            "id": "c00challenge",
            "version": 1,
            "purpose": PURPOSE.name,
            "subject_key": "subject",
            "same_wish": "wish-a",
            "locale": "vi",
            "code_length": PURPOSE.digits,
            "context_sha256": hashlib.sha256(b"").digest(),
            "sealed": SEALED,
            "made_at": NOON,
            "ends_at": NOON + PURPOSE.challenge_life,
            "generations": generations or (generation(),),
            "handles": (handle(),),
            **fields,
        }
    )


def handed_over(h: float, e: float | None = None) -> Delivery:
    """Return the event of a hand-over at second `h`, whose body began at second `e`."""
    return Delivery(Fate.HANDED_OVER, after(h), body_started_at=after(h if e is None else e))


def wish(key: str, challenge_id: str, same_wish: str = "wish-a") -> Wish:
    """Return the wish of one idempotency key of the portal."""
    return Wish(
        purpose=PURPOSE,
        challenge_id=challenge_id,
        same_wish=same_wish,
        handle=lambda owner: handle(key=f"{owner}/{key}"),
        fresh=lambda owner, number: Fresh(
            f"R{key}", "c1", SealedPart("s1", b"n" * 12, f"{owner}/{number}/{key}".encode())
        ),
        locale="vi",
        context_sha256=hashlib.sha256(b"").digest(),
    )


class Counter:
    """Where requests of one subject are decided, one after the other, and everything decided is kept."""

    def __init__(self) -> None:
        self.subject = Subject("subject", version=0)
        self.challenges: dict[str, Challenge] = {}
        self.now = NOON
        self._asked = 0

    def ask(self, key: str = "", same_wish: str = "wish-a") -> Queued | Joined | Repeated | GivenBack | TooSoon:
        """Decide a request and keep what was decided; without a key, with a new one."""
        self._asked += 1
        own = wish(key or f"key-{self._asked}", f"c{self._asked}", same_wish)
        same = self.challenges.get(self.subject.challenge_of(same_wish) or "")
        latest = self.challenges.get(self.subject.latest_id or "")
        decided = decide_request(own, self.subject, same, latest, self.now)
        if isinstance(decided, Queued | Joined):
            self.keep(decided.challenge)
        if isinstance(decided, Queued):
            assert decided.subject.version == self.subject.version + 1
            self.subject = decided.subject
        return decided

    def keep(self, changed: Challenge) -> None:
        """Store a challenge as a commit would."""
        stored = self.challenges.get(changed.id)
        assert changed.version == (stored.version if stored else 0) + 1
        self.challenges[changed.id] = changed

    @property
    def latest(self) -> Challenge:
        """The challenge that the subject's record names."""
        assert self.subject.latest_id is not None
        return self.challenges[self.subject.latest_id]

    def at(self, seconds: float) -> Counter:
        """Let the clock show that many seconds after noon."""
        self.now = after(seconds)
        return self
