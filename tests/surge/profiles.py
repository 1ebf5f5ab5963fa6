"""Who comes, to what. Each time is one of the shipped policy or of an office's advice, divided by `HURRY`.

Nothing else makes a surge short: 3 times the relay's capacity for five minutes takes 25 s, and the patience of a
quarter of an hour 76 s. The relay's capacity is that of its slots: a letter takes it `TAKES_S` on average, some a
little less and some more, so that letters do not leave in volleys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.dev.inbox.client import InboxClient
from tests.e2e.alarms import HURRY, RESERVE_S, SLOTS, Alarmed, alarmed_stack

DEADLINE_S = 840 // HURRY
PATIENCE_S = DEADLINE_S + RESERVE_S
PRESS_AFTER_S = 60 / HURRY
TAKES_S = 2.4
TAKES_BY_TOWN = {"[0-3]": 1.76, "[4-7]": 2.16, "[89ab]": 2.56, "[c-f]": 2.96}
"""At RCPT, by the first digit of the recipient's town; as many live in each. The rest goes by on the wire."""
CAPACITY = SLOTS / TAKES_S
FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Profile:
    """One surge."""

    name: str
    title: str
    seconds: float
    """How long they come."""
    guarded: bool = True
    """False: nobody is refused, and no press joins a letter that waits, as at an issuer of today."""


SHORT = Profile("a", "three times the relay's capacity for five minutes", 300 / HURRY)
LONG = Profile("b", "three times the relay's capacity for twenty minutes", 1200 / HURRY)
UNGUARDED = Profile("c", "the same without admission and joins", 1200 / HURRY, guarded=False)
PROFILES = (SHORT, LONG, UNGUARDED)


def slow_down(inbox: InboxClient) -> None:
    """Let the relay take `CAPACITY` letters a second, and no more."""
    inbox.set_behaviour(
        *(
            {"stage": "rcpt", "action": "delay", "to": f"*@town-{digits}*", "delay_s": seconds}
            for digits, seconds in TAKES_BY_TOWN.items()
        )
    )


@contextmanager
def surge_stack(folder: Path, profile: Profile) -> Iterator[Alarmed]:
    """Run a watched stack whose relay takes `CAPACITY` letters a second."""
    with alarmed_stack(folder, deadline_s=DEADLINE_S, admission=profile.guarded) as alarmed:
        slow_down(alarmed.running.inbox)
        yield alarmed
