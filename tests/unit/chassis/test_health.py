"""Alive and ready: what probes are told."""

from __future__ import annotations

from services.chassis.telemetry import Health


def test_a_process_that_has_said_nothing_yet_is_not_ready() -> None:
    assert not Health().ready


def test_a_process_is_ready_when_every_part_is() -> None:
    health = Health()
    health.part("redis", ready=True)
    health.part("inbox", ready=False)

    assert (health.ready, health.missing) == (False, ["inbox"])

    health.part("inbox", ready=True)

    assert (health.ready, health.missing) == (True, [])


def test_a_part_that_is_lost_makes_the_process_not_ready_again() -> None:
    health = Health()
    health.part("redis", ready=True)

    health.part("redis", ready=False)

    assert (health.ready, health.missing) == (False, ["redis"])


def test_a_process_that_stops_is_not_ready_whatever_its_parts_say() -> None:
    health = Health()
    health.part("redis", ready=True)

    health.stop()
    health.part("redis", ready=True)

    assert (health.ready, health.missing) == (False, ["stopping"])


def test_everything_that_is_missing_is_named_in_one_order() -> None:
    health = Health()
    for name in ("redis", "inbox b", "inbox a"):
        health.part(name, ready=False)
    health.stop()

    assert health.missing == ["inbox a", "inbox b", "redis", "stopping"]


def test_why_a_part_is_not_ready_is_told_until_its_next_word() -> None:
    health = Health()
    health.part("inbox", ready=False, why="denied")

    assert health.missing == ["inbox (denied)"]

    health.part("inbox", ready=False)

    assert health.missing == ["inbox"]


def test_whoever_asked_is_told_of_every_word() -> None:
    health = Health()
    told: list[bool] = []
    health.on_change.append(lambda: told.append(health.ready))

    health.part("redis", ready=False)
    health.part("redis", ready=True)
    health.stop()

    assert told == [False, True, False]


def test_two_processes_in_one_interpreter_do_not_share_their_health() -> None:
    first, second = Health(), Health()

    first.part("redis", ready=True)

    assert not second.ready
