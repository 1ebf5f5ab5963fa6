"""What lagwatch needs from outside, and what each part owes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.chassis.lag import PartitionReading, Queue, QueueLag
from services.chassis.lane import Flow


class Reason(StrEnum):
    """Why a measurement failed, wholly or in part; the values are metric labels."""

    BROKER_AWAY = "broker_away"
    """No broker answers, or not in time. Look at Kafka and at the network."""
    TOPIC_UNKNOWN = "topic_unknown"
    """The topic does not exist. Create it, or mend LAGWATCH_QUEUES."""
    GROUP_UNREADABLE = "group_unreadable"
    """The group's offsets cannot be read: its coordinator is moving or loading. Ends by itself, else look at Kafka."""
    PARTITION_UNREADABLE = "partition_unreadable"
    """The partition has no leader, or the leader refuses. Look at Kafka's under-replicated partitions."""
    AGE_UNKNOWN = "age_unknown"
    """The lag is known, but the oldest record could not be read (too late, no READ), or carries no time."""
    BROKER_UNTRUSTED = "broker_untrusted"
    """The broker's certificate is not trusted. Look at LAGWATCH_KAFKA_CA_FILE and at the certificate's names."""
    DENIED = "denied"
    """Wrong password or missing rights. Needed: DESCRIBE on the groups, READ on the topics (deploy/kafka_acls.py)."""
    HAND_OVERS_UNKNOWN = "hand_overs_unknown"
    """The delivery events of a lane could not be read to their end in time; its wait is not known meanwhile."""
    GROUP_UNKNOWN = "group_unknown"
    """No such group has ever read the topic. Start its service, or mend LAGWATCH_QUEUES. Everything waits for it."""
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"
    """The log does not hold what the group committed: deleted by retention, or of another log. Records were lost."""
    UNEXPECTED = "unexpected"
    """A fault of ours or of the client library; the log has the traceback."""

    @property
    def is_blind(self) -> bool:
        """True when something could not be measured; else everything was, and something about it is amiss."""
        return self not in {Reason.GROUP_UNKNOWN, Reason.OFFSET_OUT_OF_RANGE}


class Unavailable(Exception):
    """Nothing at all could be read; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        """Keep the reason."""
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Unread:
    """What could not be read: one partition, or the whole queue when `partition` is none."""

    partition: int | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue of letters and all that waits for the same slots; each of its queues is watched."""

    name: str
    main: Queue
    tiers: tuple[Queue, ...]
    """Where letters wait that could not leave."""
    deliveries: Queue
    """Where the mailer tells what became of them."""


@dataclass(frozen=True, slots=True)
class QueueReading:
    """What the brokers said about one queue."""

    queue: Queue
    partitions: tuple[PartitionReading, ...] = ()
    unread: tuple[Unread, ...] = ()
    members: int | None = None
    """How many consumers the group has (0 when there is no such group); none when that could not be read."""
    handed_over: int | None = None
    """Of deliveries: letters told as handed over since the last reading that could tell; 0 in the first one. None when
    it cannot be told now (they are told later), and for any other queue."""
    topic_id: str = ""
    """Another one for a topic that was made anew."""


class QueueReader(Protocol):
    """Reads queues where they are, without disturbing anyone: commits nothing, joins no group."""

    async def read(self, queues: Sequence[Queue]) -> Sequence[QueueReading]:
        """Return one reading per queue, in the order asked, within a bounded time.

        Each partition that exists is either among the `partitions` or among the `unread`: what is broken hides nothing
        else. Offsets are read in the order that `services.chassis.lag` asks for. Where something waits, `head_at` is
        the creation time of the first record at or after the position. A group that does not exist has committed
        nothing; a topic that does not exist is unread. A reader that failed is good for the next call.

        Of a tier every letter that waits is looked at; while some were not yet, no `head_at` is told. `asked_at` and
        `due_at` are those of the earliest of them. A letter that the relay may or may not have taken was not handed
        over.

        Not to be called again before it has returned.

        Raises:
            Unavailable: nothing could be read.
        """


class Board(Protocol):
    """Shows the latest measurement of each queue and lane. Never blocks."""

    def show(self, lag: QueueLag) -> None:
        """Replace what is shown of the queue; what is unmeasured this time keeps what was shown before."""

    def show_lane(self, lane: str, main: Queue, flow: Flow) -> None:
        """Replace what is shown of the lane."""
