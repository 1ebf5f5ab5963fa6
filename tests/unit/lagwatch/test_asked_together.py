"""One bad partition must not hide the good ones, and no error may be a riddle."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from kafka import errors

from services.chassis.kafka_client import Refused, Trouble
from services.lagwatch.outbound.kafka_failures import asked_together, reason_of
from services.lagwatch.ports import Reason

OTHERWISE = Reason.PARTITION_UNREADABLE


class Oracle:
    """Answers with the length of each word, and raises when asked about a bad one."""

    def __init__(self, **bad: Exception) -> None:
        self.bad = bad
        self.asked: list[list[str]] = []

    def __call__(self, words: Sequence[str]) -> dict[str, int]:
        self.asked.append(list(words))
        for word in words:
            if word in self.bad:
                raise self.bad[word]
        return {word: len(word) for word in words if word != "mute"}


def test_when_nothing_is_wrong_one_question_is_enough() -> None:
    oracle = Oracle()

    answers = asked_together(oracle, ["a", "bb"], OTHERWISE)

    assert answers == {"a": 1, "bb": 2}
    assert oracle.asked == [["a", "bb"]]


def test_one_that_spoils_the_answer_is_asked_alone() -> None:
    oracle = Oracle(bb=errors.KafkaStorageError())

    answers = asked_together(oracle, ["a", "bb", "ccc"], OTHERWISE)

    assert answers == {"a": 1, "bb": Reason.PARTITION_UNREADABLE, "ccc": 3}


def test_a_broker_that_is_away_is_not_asked_again_for_each() -> None:
    oracle = Oracle(a=errors.KafkaConnectionError())

    answers = asked_together(oracle, ["a", "bb"], OTHERWISE)

    assert answers == {"a": Reason.BROKER_AWAY, "bb": Reason.BROKER_AWAY}
    assert len(oracle.asked) == 1


def test_what_the_answer_leaves_out_is_not_read() -> None:
    assert asked_together(Oracle(), ["mute"], OTHERWISE) == {"mute": OTHERWISE}


def test_a_bug_is_not_taken_for_an_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        asked_together(Oracle(a=ZeroDivisionError()), ["a"], OTHERWISE)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.KafkaTimeoutError(), Reason.BROKER_AWAY),
        (errors.NodeNotReadyError(), Reason.BROKER_AWAY),
        (errors.RequestTimedOutError(), Reason.BROKER_AWAY),
        (ConnectionResetError(), Reason.BROKER_AWAY),
        (errors.UnknownTopicOrPartitionError(), Reason.TOPIC_UNKNOWN),
        (errors.TopicAuthorizationFailedError(), Reason.DENIED),
        (errors.GroupAuthorizationFailedError(), Reason.DENIED),
        (errors.SaslAuthenticationFailedError(), Reason.DENIED),
        (Refused(Trouble.DENIED, "password"), Reason.DENIED),
        (Refused(Trouble.BROKER_UNTRUSTED, "certificate"), Reason.BROKER_UNTRUSTED),
        (errors.CoordinatorNotAvailableError(), OTHERWISE),
        (errors.NotLeaderForPartitionError(), OTHERWISE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_an_error_is_told_by_what_can_be_done_about_it(error: Exception, reason: Reason) -> None:
    assert reason_of(error, OTHERWISE) is reason
