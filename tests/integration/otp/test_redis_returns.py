"""otp whose Redis comes back with less than it had: with nothing, or without its last writes.

What SECURITY.md calls a lost write: what was written before the cut counts for ever, what was written after it may
happen once more. The file is cut in the middle of a write, as a power cut does, and the server has to say so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import pytest
from kip.otp.v1 import otp_service_pb2 as pb

from services.otp.rules.quota import Dimension
from tests.e2e.portal import Citizen, Portal, refused
from tests.integration.otp.otp_process import AT_ONCE, OtpProcess, RedisOfOtp, household, wait_until_served

TORN = 7  # octets of a write that was not finished: fewer than any has

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def otp(redis: RedisOfOtp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtpProcess]:
    """An otp that is started once, and lives through everything without a fault of its own."""
    process = OtpProcess(tmp_path_factory.mktemp("otp"), redis.address)
    process.start()
    pid = process.pid
    yield process
    assert (process.is_running, process.pid) == (True, pid)
    assert "call_failed" not in process.log_text()
    process.kill()


def ask(portal: Portal, people: list[Citizen]) -> list[pb.RequestCodeResponse]:
    """Let each of them ask, all at once; a repeat has the same key."""
    with ThreadPoolExecutor(AT_ONCE) as together:
        return list(together.map(lambda each: portal.request(each, key=each.mark), people))


def how_many_fit(portal: Portal, people: list[Citizen]) -> int:
    """Let them ask one after another until there is no room; return how many were let in."""
    for number, each in enumerate(people):
        try:
            portal.request(each, key=each.mark)
        except grpc.RpcError:
            told = refused(partial(portal.request, each, key=each.mark))
            assert (told.status, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
            return number
    raise AssertionError("there is room for everybody")


def test_from_a_redis_that_comes_back_empty_an_old_handle_is_unknown_and_what_is_new_works(
    otp: OtpProcess, portal: Portal, redis: RedisOfOtp
) -> None:
    *family, repeats = household(2 * AT_ONCE + 1)
    asked = ask(portal, family[:AT_ONCE])
    old, code = asked[0], otp.code_of(asked[0], family[0])
    assert refused(lambda: portal.request(repeats, key=repeats.mark)).reason == "QUOTA_EXCEEDED"

    redis.kill()
    shutil.rmtree(redis.files)
    redis.start()
    wait_until_served(portal)

    with redis.looked_at() as client:
        assert redis.keys("otp:*") == []
        assert client.info("errorstats")["errorstat_NOSCRIPT"]["count"] >= 1, "it has forgotten its scripts"
    told = portal.verify(old.handle, code)
    assert told.WhichOneof("outcome") == "unknown"
    assert told.unknown.advice.kind == pb.ADVICE_KIND_ASK_AGAIN
    assert told.unknown.advice.text.keys() == {"vi", "en"}
    assert portal.verify(old.handle, "000000") == told
    assert portal.look(old.handle) == pb.Challenge()
    assert list(portal.watch(old.handle)) == []
    assert portal.resend(old.handle).outcome == pb.RESEND_OUTCOME_NOT_OPEN
    anew = portal.request(family[0], key=family[0].mark)
    assert anew.challenge.challenge_id != old.challenge.challenge_id
    assert portal.outcome(anew.handle, code) == "wrong"
    assert portal.outcome(anew.handle, otp.code_of(anew, family[0])) == "accepted"
    assert how_many_fit(portal, [*family[AT_ONCE:], repeats]) == AT_ONCE - 1


def test_from_a_file_without_its_last_writes_what_was_before_the_cut_counts_and_what_came_after_may_happen_once_more(
    otp: OtpProcess, portal: Portal, redis: RedisOfOtp
) -> None:
    family, other = household(2 * AT_ONCE), Citizen("lan")
    kept, late, *_ = asked = ask(portal, family[:5])
    codes = [otp.code_of(each, citizen) for each, citizen in zip(asked, family, strict=False)]
    assert portal.outcome(kept.handle, codes[0]) == "accepted"
    before = redis.written()

    assert portal.outcome(late.handle, codes[1]) == "accepted"
    lost = [*ask(portal, family[5:8]), *ask(portal, [other])]
    after = redis.written()
    redis.kill()
    with redis.log_of_writes.open("r+b") as file:
        file.truncate(before + TORN)
    redis.start()
    wait_until_served(portal)

    assert after > before + TORN
    assert "Truncating the AOF" in redis.log_text()
    assert redis.log_of_writes.stat().st_size < after
    # Before the cut: once is once, and what was asked for is there, its letter too.
    assert {f"{each.challenge.challenge_id}.1" for each in asked} <= set(redis.letters())
    assert portal.outcome(kept.handle, codes[0]) == "used"
    assert [portal.outcome(each.handle, code) for each, code in list(zip(asked, codes, strict=True))[2:]] == [
        "accepted"
    ] * 3
    # After it: as if it had not been. One code is accepted once more, and no more than that.
    assert [portal.outcome(late.handle, codes[1]) for _ in range(3)] == ["accepted", "used", "used"]
    assert {portal.outcome(each.handle, "000000") for each in lost} == {"unknown"}
    (again,) = ask(portal, [other])
    assert portal.outcome(again.handle, otp.code_of(again, other)) == "accepted"
    # The limit has forgotten what was taken after the cut, and nothing else.
    assert how_many_fit(portal, family[8:]) == AT_ONCE - 5
    assert len({*redis.takes(Dimension.ADDRESS)} & {each.challenge.challenge_id for each in asked}) == 5
