"""otp whose Redis goes away: every call says so, and when to come back; nothing is made that no limit was asked for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import grpc
import pytest

from services.otp.rules.quota import Dimension
from tests.e2e.portal import Citizen, Portal, Refusal, refused
from tests.integration.otp.otp_process import AT_ONCE, OtpProcess, RedisOfOtp, household, wait_until_served

BOUND_S = 5.0  # of a call that finds no Redis: it takes milliseconds, or a second where nothing answers
AWAY = (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def running(redis: RedisOfOtp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtpProcess]:
    """An otp over it, started once: it lives through everything."""
    process = OtpProcess(tmp_path_factory.mktemp("otp"), redis.address)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def otp(running: OtpProcess, redis: RedisOfOtp) -> Iterator[OtpProcess]:
    """The otp, which neither dies in a test nor has a fault of its own to tell of."""
    pid = running.pid
    yield running
    if not redis.is_running:
        redis.start()
    assert (running.is_running, running.pid) == (True, pid)
    assert "call_failed" not in running.log_text()


def kill(redis: RedisOfOtp) -> None:
    """Kill it with nothing on its way to the file, and see that it is gone."""
    redis.written()
    pid = redis.pid
    redis.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    host, _, port = redis.address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


def timed(call: Callable[[], object]) -> tuple[Refusal, float]:
    """Make a call that must be refused; return what was told, and after how many seconds."""
    began = time.monotonic()
    return refused(call), time.monotonic() - began


def test_without_redis_every_call_says_when_to_come_back_and_with_it_otp_goes_on_by_itself(
    otp: OtpProcess, portal: Portal, redis: RedisOfOtp
) -> None:
    citizen, other = Citizen("lan"), Citizen("minh")
    asked = portal.request(citizen)
    code = otp.code_of(asked, citizen)
    news = portal.watch(asked.handle)
    next(news)
    errors = otp.value("redis_client_errors_total")

    with Portal(otp.addresses()["grpc"], otp.addresses()["grpc"], otp.tokens.operator) as operator:
        kill(redis)
        calls: dict[str, Callable[[], object]] = {
            "request": lambda: portal.request(other, key=other.mark),
            "resend": lambda: portal.resend(asked.handle),
            "verify": lambda: portal.verify(asked.handle, code),
            "get": lambda: portal.look(asked.handle),
            "watch": lambda: next(portal.watch(asked.handle)),
            "go on watching": lambda: next(news),
            "cancel": lambda: portal.cancel(asked.handle),
            "unlock": lambda: operator.unlock(citizen),
        }
        told = {name: timed(call) for name, call in calls.items()}

    assert {name: (each.status, each.reason) for name, (each, _) in told.items()} == dict.fromkeys(calls, AWAY)
    assert {name for name, (each, _) in told.items() if not (0 < (each.retry_after_s or 0) <= BOUND_S)} == set()
    assert {name for name, (each, _) in told.items() if each.words.keys() != {"vi", "en"}} == set()
    assert {name: round(took, 1) for name, (_, took) in told.items() if took > BOUND_S} == {}
    assert otp.value("redis_client_errors_total") >= errors + len(calls)
    redis.start()
    wait_until_served(portal)
    assert portal.request(other, key=other.mark).challenge.letters[0].reference
    assert portal.outcome(asked.handle, code) == "accepted"


def test_what_was_asked_while_redis_was_away_finds_the_limit_of_its_mailbox_as_it_was(
    portal: Portal, redis: RedisOfOtp
) -> None:
    *family, last, beyond = household(AT_ONCE + 1)
    with ThreadPoolExecutor(AT_ONCE) as together:
        asked = list(together.map(portal.request, family))
    kill(redis)
    away = [refused(partial(portal.request, each, key=each.mark)) for each in (last, beyond)]
    redis.start()
    wait_until_served(portal)

    admitted = portal.request(last, key=last.mark)
    full = refused(lambda: portal.request(beyond, key=beyond.mark))

    assert [(each.status, each.reason) for each in away] == [AWAY, AWAY]
    assert (full.status, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    made = {answer.challenge.challenge_id for answer in (*asked, admitted)}
    tokens = [token for token in redis.takes(Dimension.ADDRESS) if token in made]
    assert len(made) == len(tokens) == AT_ONCE


@contextmanager
def limits_forbidden(redis: RedisOfOtp) -> Iterator[None]:
    """Let Redis serve every key but those of limits, as a wrong ACL would; see that somebody asked for one."""
    with redis.looked_at() as admin:
        admin.acl_log_reset()
        admin.acl_setuser("default", enabled=True, nopass=True, reset_keys=True, keys=["otp:{s*", "otp:{claim:*"])
        try:
            yield
        finally:
            admin.acl_setuser("default", enabled=True, nopass=True, keys=["*"])
        assert any("quota:" in str(entry["object"]) for entry in admin.acl_log())


def test_where_only_the_limits_cannot_be_asked_no_letter_is_made(
    otp: OtpProcess, portal: Portal, redis: RedisOfOtp
) -> None:
    citizen, before = Citizen("lan"), redis.letters()
    errors = otp.value("redis_client_errors_total")
    with limits_forbidden(redis):
        told, took = timed(lambda: portal.request(citizen, key=citizen.mark))

    assert (told.status, told.reason) == AWAY
    assert took < BOUND_S
    assert otp.value("redis_client_errors_total") > errors
    assert redis.letters() == before
    asked = portal.request(citizen, key=citizen.mark)
    assert set(redis.letters()) - set(before) == {f"{asked.challenge.challenge_id}.1"}


def test_a_crowd_that_finds_no_redis_is_told_so_and_each_of_its_repeats_is_one_letter(
    otp: OtpProcess, portal: Portal, redis: RedisOfOtp
) -> None:
    people = [Citizen("lan") for _ in range(60)]
    before = redis.letters()
    kill(redis)
    with ThreadPoolExecutor(len(people)) as together:
        told = list(together.map(lambda each: timed(lambda: portal.request(each, key=each.mark)), people))
    redis.start()
    wait_until_served(portal)
    meanwhile = redis.letters()
    with ThreadPoolExecutor(8) as together:
        asked = list(together.map(lambda each: portal.request(each, key=each.mark), people))

    assert {(each.status, each.reason) for each, _ in told} == {AWAY}
    assert max(took for _, took in told) < BOUND_S
    assert meanwhile == before
    assert sorted({*redis.letters()} - {*before}) == sorted(f"{each.challenge.challenge_id}.1" for each in asked)
    assert otp.value("process_open_fds") < 100
