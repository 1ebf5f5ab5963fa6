"""otp whose Redis answers late: calls end in time, nothing is half made, and what piles up is bounded."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from kip.otp.v1 import otp_service_pb2 as pb
from kip.otp.v1 import otp_service_pb2_grpc as pb_grpc

from services.otp.inbound.grpc_api import SERVICE_NAME
from services.otp.outbound.redis_batches import LARGEST
from services.otp.rules.quota import Dimension
from tests.conditions import wait_until
from tests.e2e.portal import Citizen, Portal, refused
from tests.integration.otp.otp_process import AT_ONCE, OtpProcess, RedisOfOtp, ended, household, wait_until_served
from tests.servers.slow_road import SlowRoad, slow_road

LATE_S = 0.3  # within what a call of Redis may take, four times in a request
TOO_LATE_S = 5.0  # beyond it
DEADLINE_S = 10.0
WITHIN_S = 5.0  # a turn and an answer are two seconds; a bucket of the histogram, far from what a queue would need
CALLS = 350  # of each caller: fewer than it may have in hand

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def the_road(redis: RedisOfOtp) -> Iterator[SlowRoad]:
    with slow_road(redis.address, delay_s=0) as road:
        yield road


@pytest.fixture
def road(the_road: SlowRoad) -> Iterator[SlowRoad]:
    """The road from otp to its Redis, on which nothing is late unless a test says so."""
    yield the_road
    the_road.delay_s = 0


@pytest.fixture(scope="module")
def running(the_road: SlowRoad, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtpProcess]:
    process = OtpProcess(tmp_path_factory.mktemp("otp"), the_road.address)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def otp(running: OtpProcess) -> Iterator[OtpProcess]:
    """The otp, which has no fault of its own to tell of after a test."""
    if not running.is_running:
        running.start()
    yield running
    assert "call_failed" not in running.log_text()


def test_a_redis_that_is_late_makes_calls_late_and_who_waits_less_leaves_nothing_half_made(
    portal: Portal, redis: RedisOfOtp, road: SlowRoad
) -> None:
    people = {Citizen("lan"): within_s for within_s in (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, DEADLINE_S)}
    portal.request(Citizen("minh"))  # the connection is there
    late, before = road.late, redis.letters()
    road.delay_s = LATE_S
    with ThreadPoolExecutor(len(people)) as together:
        wishes = [partial(portal.request, each, key=each.mark, within_s=within_s) for each, within_s in people.items()]
        told = list(together.map(ended, wishes))
    road.delay_s = 0
    made = Counter(redis.letters()) - Counter(before)
    asked = [portal.request(each, key=each.mark) for each in people]

    assert road.late > late
    assert told[-1] is grpc.StatusCode.OK
    assert set(told[:3]) == {grpc.StatusCode.DEADLINE_EXCEEDED}  # a request is four times as late as its Redis
    letters = Counter(f"{each.challenge.challenge_id}.1" for each in asked)
    assert Counter(redis.letters()) - Counter(before) == letters
    assert made <= letters
    assert set(letters.values()) == {1}
    taken = Counter(f"{token}.1" for token in redis.takes(Dimension.ADDRESS))
    assert {letter: taken[letter] for letter in letters} == letters


class Crowd:
    """Many calls at once, of two callers, each with its own deadline."""

    def __init__(self, otp: OtpProcess) -> None:
        self._address = otp.addresses()["grpc"]
        self._tokens = (otp.tokens.portal, otp.tokens.operator)

    async def presses(self) -> Counter[tuple[grpc.StatusCode, bool]]:
        """Ask for as many letters; return how calls ended, and whether with a time to come back."""
        return sum(await asyncio.gather(*map(self._presses_of, self._tokens)), Counter())

    async def _presses_of(self, token: str) -> Counter[tuple[grpc.StatusCode, bool]]:
        alone = [("grpc.use_local_subchannel_pool", 1)]  # a connection carries the calls of one caller
        async with grpc.aio.insecure_channel(self._address, options=alone) as channel:
            stub: pb_grpc.OtpServiceAsyncStub = pb_grpc.OtpServiceStub(channel)
            return Counter(await asyncio.gather(*(self._press(stub, token) for _ in range(CALLS))))

    async def _press(self, stub: pb_grpc.OtpServiceAsyncStub, token: str) -> tuple[grpc.StatusCode, bool]:
        mark = uuid.uuid4().hex
        wish = pb.RequestCodeRequest(
            idempotency_key=mark, purpose="confirm-email", subject=mark, email=f"{mark}@example.vn"
        )
        try:
            await stub.RequestCode(wish, metadata=(("authorization", f"Bearer {token}"),), timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)  # type: ignore[arg-type] # the stub knows only the blocking API
            details = status.details if status else ()
            return error.code(), any(each.Is(RetryInfo.DESCRIPTOR) for each in details)
        return grpc.StatusCode.OK, False


async def test_a_redis_that_is_far_too_late_costs_each_of_many_calls_two_seconds_and_leaves_no_queue(
    otp: OtpProcess, portal: Portal, redis: RedisOfOtp, road: SlowRoad
) -> None:
    portal.request(Citizen("minh"))  # the first one ever may be slow
    before, late = redis.letters(), road.late
    answered, soon = _answered(otp), _answered(otp, within_s=WITHIN_S)

    road.delay_s = TOO_LATE_S
    told = await Crowd(otp).presses()
    road.delay_s = 0
    began = time.monotonic()
    await asyncio.to_thread(wait_until_served, portal)

    assert road.late > late
    assert told == {(grpc.StatusCode.UNAVAILABLE, True): 2 * CALLS}
    assert _answered(otp) - answered >= 2 * CALLS
    assert _answered(otp) - answered == _answered(otp, within_s=WITHIN_S) - soon
    assert time.monotonic() - began < WITHIN_S
    assert redis.letters() == before
    with redis.looked_at() as client:
        assert client.info("clients")["connected_clients"] < LARGEST


def _answered(otp: OtpProcess, *, within_s: float | None = None) -> float:
    """Return how many requests for a code have ended, or have ended so soon, by the clock of the server."""
    labels = {"grpc_service": SERVICE_NAME, "grpc_method": "RequestCode"}
    if within_s is None:
        return otp.value("grpc_server_handling_seconds_count", **labels)
    return otp.value("grpc_server_handling_seconds_bucket", le=str(within_s), **labels)


def test_killed_between_the_taking_and_the_making_it_has_taken_and_the_repeat_resumes_with_the_same_ids(
    otp: OtpProcess, redis: RedisOfOtp, road: SlowRoad
) -> None:
    citizen, *family, beyond = household(AT_ONCE + 1)
    with otp.portal() as portal, ThreadPoolExecutor(1) as meanwhile:
        portal.request(Citizen("minh"))  # the connection is there
        before, letters = redis.takes(Dimension.ADDRESS), redis.letters()
        road.delay_s = LATE_S * 2
        killed = meanwhile.submit(ended, lambda: portal.request(citizen, key=citizen.mark))
        wait_until(lambda: len(redis.takes(Dimension.ADDRESS)) > len(before), within_s=DEADLINE_S, what="the taking")

        otp.kill()

        assert killed.result() is grpc.StatusCode.UNAVAILABLE
    road.delay_s = 0
    assert redis.letters() == letters, "it was killed before the making"
    (token,) = Counter(redis.takes(Dimension.ADDRESS)) - Counter(before)
    assert redis.keys(f"otp:*:challenge:{token}") == []

    otp.start()
    with otp.portal() as portal:
        for each in family:
            portal.request(each)
        full = refused(lambda: portal.request(beyond))
        resumed = portal.request(citizen, key=citizen.mark)
        again = portal.request(citizen, key=citizen.mark)

    assert (full.status, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert resumed.challenge.challenge_id == token
    assert again.handle == resumed.handle
    assert len(redis.takes(Dimension.ADDRESS)) - len(before) == AT_ONCE
    assert Counter(redis.letters())[f"{token}.1"] == 1
