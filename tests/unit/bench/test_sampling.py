"""Which part of otp a sampled stack belongs to."""

from __future__ import annotations

import pytest

from bench.sampling import LOOP, OTHER, part_of, shares

LOOP_FRAMES = "MainThread;BaseEventLoop._run_once (asyncio/base_events.py:1922);task_step (_asynciomodule.c:2990)"
GATE = "_Gate._around.<locals>.call (services/chassis/grpc_server.py:177)"
READ = "AbstractConnection.read_response (redis/asyncio/connection.py:1281)"
TIMER = "timeout (asyncio/timeouts.py:145)"


def test_the_innermost_owner_gets_what_it_asks_the_standard_library_for() -> None:
    assert part_of([LOOP_FRAMES, GATE, READ, TIMER, "getpid (libc.so.6)"]) == "Redis client"


def test_what_is_outside_of_the_innermost_owner_does_not_count() -> None:
    assert part_of([LOOP_FRAMES, READ, GATE]) == "gate (caller, deadline)"


@pytest.mark.parametrize("innermost", ["gc_collect_main (libpython3.11.so.1.0)", "visit_decref (gc.c)"])
def test_the_garbage_collector_owns_whatever_it_interrupts(innermost: str) -> None:
    assert part_of([LOOP_FRAMES, READ, "gc_collect_main (libpython3.11.so.1.0)", innermost]) == "garbage collector"


def test_the_sweep_is_told_apart_from_the_calls_that_use_the_same_client() -> None:
    sweep = "sweep_for_ever (services/otp/__main__.py:100)"

    assert part_of([LOOP_FRAMES, sweep, READ]) == "sweep of the outbox (each second)"


def test_what_nobody_owns_is_the_loop_s_own_work() -> None:
    assert part_of(LOOP_FRAMES.split(";")) == LOOP


def test_what_is_not_even_the_loop_s_is_said_to_be_unnamed() -> None:
    assert part_of(["thread (1): x", "0x7f (libc.so.6)"]) == OTHER


@pytest.mark.parametrize(
    ("frame", "part"),
    [
        ("validate_email (email_validator/validate_email.py:12)", "email_validator"),
        ("OtpFieldChecks.code (services/otp/inbound/grpc_fields.py:20)", "field checks"),
        ("Keyring.seal (services/chassis/keyring.py:120)", "keyring: seal"),
        ("mac (services/chassis/keyring.py:147)", "keyring: HMAC"),
        ("RedisChallengeStore.mint_id (services/otp/outbound/redis_store.py:117)", "drawing ids and references"),
        ("RedisChallengeStore.load (services/otp/outbound/redis_store.py:130)", "Redis client"),
        ("mpack_encode (msgspec/_core.cpython-311-x86_64-linux-gnu.so)", "msgspec"),
        ("Sender.run_once (kafka/producer/sender.py:188)", "Kafka producer"),
        ("0x7f5f (grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so)", "gRPC"),
        ("Tracer.start_as_current_span (trace/__init__.py:1130)", "telemetry of a call (span, metrics)"),
        ("decide_request (services/otp/rules/request.py:80)", "rules and verbs"),
    ],
)
def test_every_part_is_known_by_its_frames(frame: str, part: str) -> None:
    assert part_of([LOOP_FRAMES, frame]) == part


def test_shares_are_of_the_busy_samples() -> None:
    waiting = "thread;EpollSelector.select (selectors.py:468);epoll_wait (libc.so.6) 900"

    found = shares([f"{LOOP_FRAMES};{READ} 30", f"{LOOP_FRAMES};{GATE} 10", waiting])

    assert found == {"Redis client": 0.75, "gate (caller, deadline)": 0.25}


def test_a_wait_far_outside_does_not_hide_work() -> None:
    inner = ";".join([READ] * 6)

    assert shares([f"lock_PyThread_acquire_lock (libpython);{inner} 5"]) == {"Redis client": 1.0}
