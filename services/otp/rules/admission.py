"""Whether one more letter is taken into the queue: a ramp over the wait that it would have.

A waiting letter is no dying code: its clock starts when it leaves. So nobody is refused because the queue is long, only
because it is longer than people wait: from `BEGINS` of the deadline D on some are, at `ENDS` everybody. In between the
queue finds its own length: those who are let in are as many as leave.

Who is refused is decided by who asks and the turn, a minute or a little less, not by a throw for each press: pressing
again is not worth while. So it is known beforehand in which turn somebody will be let in if the share stays as it is,
and that is what they are told: the share is as high as it is because people come back, and a shorter time would bring
back more than can be let in. The share follows the wait within `SMOOTH`, or a sixtieth of D where that is less, so that
one measurement that jumps does not send a wave of people away.

Where nobody has measured for 15 s, only the outbox is known, which otp keeps itself; it is taken for the whole queue.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime, timedelta

NOTHING = timedelta(0)
BEGINS, ENDS = 0.75, 0.9
"""Of the deadline: where the ramp begins, and from where on nobody is let in. The rest is for what is on its way.

Three times what leaves, for five minutes, makes a wait of ten, which is 0.71 of fourteen: nobody of those is refused.
"""
OVER = 0.5
"""Of the deadline: below this it is said to be over; between this and `BEGINS` it is what it was."""
SMOOTH = timedelta(seconds=10)
SMOOTH_SHARE = 1 / 60
"""Of the deadline: at one of minutes this is more than `SMOOTH`, in a rehearsal of seconds less."""
SOONEST = timedelta(seconds=5)
"""Nobody is told to come back earlier."""
LATEST = timedelta(hours=1)
TURN = timedelta(minutes=1)
TURN_SHARE = 1 / 14
"""Of the deadline: at one of minutes this is `TURN`, at a shorter one less."""
PHASE = -1
"""What draws when the turns of somebody begin: if everybody's began at once, who press on would be let in in a wave."""
HOPELESS = 0.98
"""Of those who ask: where more are refused, a time is told as if it were these."""
JITTER = 1 / 120
"""Of the wait that is told, at most: even `LATEST` carries nobody past their turn. What keeps people apart is turns."""
ASSUMED_PER_SECOND = 10.0
"""What leaves, where nobody has ever seen letters leave and the outbox is all that is known: a small relay."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is known of the queue, for a letter that would be asked for now."""

    wait: timedelta | None
    """Until it would leave; none when nobody has measured lately."""
    unpublished: int = 0
    """Letters that wait in the outbox."""
    per_second: float | None = None
    """How many leave a second, as last known."""
    partition: int = 0
    """Where it would stand."""

    @property
    def told_wait(self) -> timedelta:
        """Return the wait, from the outbox alone where nothing else is known."""
        if self.wait is not None:
            return self.wait
        return timedelta(seconds=min(self.unpublished / (self.per_second or ASSUMED_PER_SECOND), 86_400))


@dataclass(frozen=True, slots=True)
class Ramp:
    """How many are refused, as of one instant."""

    share: float = 0.0
    """Of those who ask, 0 to 1; smoothed."""
    at: datetime | None = None
    """When that was; none before the first."""
    is_refusing: bool = False
    """Whether people are being refused, as it is told to operators: with a border between beginning and end."""


def moved(ramp: Ramp, wait: timedelta, deadline: timedelta, now: datetime) -> Ramp:
    """Return the ramp after one more look at the wait."""
    target = min(max((wait / deadline - BEGINS) / (ENDS - BEGINS), 0.0), 1.0)
    if ramp.at is None:
        share = target
    else:
        smooth = min(SMOOTH, deadline * SMOOTH_SHARE)
        share = target + (ramp.share - target) * math.exp(-max(now - ramp.at, NOTHING) / smooth)
    is_refusing = wait > deadline * OVER if ramp.is_refusing else wait > deadline * BEGINS
    return Ramp(share, now if ramp.at is None else max(now, ramp.at), is_refusing)


def refused_for(ramp: Ramp, who: str, wait: timedelta, deadline: timedelta, now: datetime) -> timedelta | None:
    """Return how long to stay away, before jitter; `None` when the letter is let in.

    It is until the first turn in which this one is let in if as many are refused as now, and no earlier than the queue
    can be so short that anybody is.
    """
    turn_s = min(TURN, deadline * TURN_SHARE).total_seconds()
    phase_s = turn_s * _drawn(who, PHASE)[0]
    now_s = now.timestamp() + phase_s
    luck, _ = _drawn(who, int(now_s // turn_s))
    if ramp.share <= luck:
        return None
    earliest_s = now_s + max(wait - deadline * ENDS, SOONEST).total_seconds()
    latest_s = now_s + LATEST.total_seconds()
    share = min(ramp.share, HOPELESS)
    for number in range(int(earliest_s // turn_s), int(latest_s // turn_s)):
        luck, spread = _drawn(who, number)
        back_s = (number + spread / 2) * turn_s  # the second half is for jitter, and for slow roads
        if share <= luck and earliest_s <= back_s:
            return timedelta(seconds=back_s - now_s)
    return LATEST


def _drawn(who: str, turn: int) -> tuple[float, float]:
    """Return the luck of somebody in a turn and when in it they are to come, each from 0 to 1."""
    drawn = hashlib.sha256(f"{who} {turn}".encode()).digest()
    return int.from_bytes(drawn[:8]) / 2**64, int.from_bytes(drawn[8:16]) / 2**64
