"""`python -m services.otp`: how otp is joined. Opened top to bottom, closed bottom to top."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog
from kip.otp.v1 import otp_service_pb2_grpc

from services.chassis.clock import system_clock
from services.chassis.grpc_server import CallersFile, grpc_server, probe_server, tls_files
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_producer import producing
from services.chassis.keyring import read_keyring
from services.chassis.ordered_inbox import InboxOptions, OrderedInbox, inbox_running
from services.chassis.process import Stopping, run, until_stopped
from services.chassis.redis_servers import redis_servers
from services.chassis.retry import patiently
from services.chassis.settings import read_settings, reading_files
from services.chassis.telemetry import Health, configure_telemetry, http_page, new_registry
from services.otp.actions.admit import AdmitLetter
from services.otp.actions.cancel import CancelChallenge
from services.otp.actions.conclude import ConcludeChallenges
from services.otp.actions.follow import FollowDelivery
from services.otp.actions.guard import GuardGuesses, WatchGuesses
from services.otp.actions.issue import IssueCode
from services.otp.actions.resend import ResendCode
from services.otp.actions.restrain import RestrainReissue
from services.otp.actions.sweep import AnnounceEntries, SweepOutbox
from services.otp.actions.unlock import UnlockSubject
from services.otp.actions.verify import VerifyCode
from services.otp.actions.watch import GetChallenge, WatchChallenge
from services.otp.inbound.grpc_api import SERVICE_NAME, OtpApi, OtpVerbs
from services.otp.inbound.kafka_inbox import DELIVERY_PARTITIONS, GROUP, MAIL_DELIVERY, DeliveryInbox
from services.otp.metrics import OtpMetrics
from services.otp.outbound.kafka_events import KafkaEncoder, KafkaEvents
from services.otp.outbound.kafka_queue import queue_sampled
from services.otp.outbound.keyring_mint import KeyringMint
from services.otp.outbound.redis_changes import RedisChanges
from services.otp.outbound.redis_quotas import RedisQuotas
from services.otp.outbound.redis_store import RedisChallengeStore, redis_client
from services.otp.outbound.redis_tally import RedisTally
from services.otp.outbound.sealed_parts import KeyringSealer
from services.otp.outbound.yaml_policy import read_policy
from services.otp.ports import ChallengeStore, KeysUnknown, Queue, StoreUnavailable
from services.otp.rules.policy import Policy
from services.otp.settings import OtpSettings

TELL_ADMISSION_PAUSE = timedelta(seconds=1)
TELL_IN_TIME_PAUSE = timedelta(seconds=1)
SWEEP_PAUSE = timedelta(seconds=1)
WATCH_GUESSES_PAUSE = timedelta(seconds=2)
CONCLUDE_PAUSE = timedelta(seconds=5)
SETTLED_WITHIN = timedelta(seconds=1)  # a broker that is there answers within 50 ms


async def serve(settings: OtpSettings, stopping: Stopping) -> None:
    """Serve until `stopping`, then let calls and records in hand finish."""
    with reading_files():
        policy = read_policy(settings.policy_file)
        code_keys = read_keyring(settings.code_keys_file)
        handle_keys = read_keyring(settings.handle_keys_file)
        index_keys = read_keyring(settings.index_keys_file)
        seal_keys = read_keyring(settings.seal_code_keys_file)
        callers = CallersFile(settings.callers_file)
        tls = tls_files(settings.grpc_certificate_file, settings.grpc_key_file, settings.grpc_client_ca_file)
    health = Health()
    registry = new_registry("otp", "0.1.0")
    metrics = OtpMetrics(registry, policy.purposes)
    show_policy(policy, metrics)
    code_keys.on_unknown.append(metrics.keys_unknown.labels("code").inc)
    seal_keys.on_unknown.append(metrics.keys_unknown.labels("seal_code").inc)
    async with AsyncExitStack() as parts:
        await parts.enter_async_context(http_page(settings.http_address, registry, health))
        await parts.enter_async_context(probe_server(settings.probe_address, health))
        health.part("store", ready=False)
        redis = await parts.enter_async_context(redis_servers(settings, redis_client))
        producer = await parts.enter_async_context(producing(settings, "otp"))
        inboxes: list[OrderedInbox] = []
        queue = await parts.enter_async_context(queue_sampled(settings, metrics, lambda: share_of_all(inboxes)))
        changes = RedisChanges(redis)
        store = RedisChallengeStore(
            redis, KafkaEncoder(policy), metrics, changes=changes, replicas=settings.redis_replicas
        )
        announce = AnnounceEntries(store, KafkaEvents(producer, metrics))
        parts.push_async_callback(announce.settled, within=SETTLED_WITHIN)
        mint = KeyringMint(KeyringSealer(seal_keys), code_keys, system_clock)
        quotas = RedisQuotas(redis, metrics)
        admit = AdmitLetter(quotas, queue if settings.admission else None, policy.limits, index_keys=index_keys)
        restraint = RestrainReissue(admit, quotas, mint, policy.limits, system_clock, index_keys=index_keys)
        restraint.on_held_back.append(lambda by: metrics.reissues_held_back.labels(by).inc())
        verify = VerifyCode(store, mint, announce, queue, policy, code_keys=code_keys, restraint=restraint)
        guard = GuardGuesses(verify, quotas, policy.limits, index_keys=index_keys)
        guard.on_full.append(lambda by: metrics.limits_reached.labels(by).inc())
        tally = RedisTally(redis, metrics, system_clock)
        watch = WatchGuesses(guard, tally, policy.limits.failure_ratio, policy.strictness)
        verbs = OtpVerbs(
            issue=IssueCode(
                store, mint, announce, queue, policy, admit=admit, handle_keys=handle_keys, index_keys=index_keys
            ),
            resend=ResendCode(store, mint, announce, queue, policy, admit=admit),
            guard=guard,
            get=GetChallenge(store, queue, policy),
            watch=WatchChallenge(store, queue, announce, policy),
            cancel=CancelChallenge(store, announce, policy),
            unlock=UnlockSubject(store, index_keys=index_keys),
        )
        api = OtpApi(verbs, policy, system_clock, metrics)
        inbox = OrderedInbox(
            settings,
            group=GROUP,
            topic=MAIL_DELIVERY,
            handle=DeliveryInbox(FollowDelivery(store, mint, announce, policy, restraint=restraint), queue, metrics),
            producer=producer,
            metrics=InboxMetrics.on(registry),
            options=InboxOptions(drain_grace=settings.drain_grace),
        )
        inboxes.append(inbox)
        with reading_files():
            await patiently(store.ping, what="Redis (OTP_REDIS_URL)", on=(StoreUnavailable,))
        health.part("store", ready=True)
        following = await parts.enter_async_context(inbox_running(inbox))
        await parts.enter_async_context(
            grpc_server(
                settings.grpc_address,
                [lambda server: otp_service_pb2_grpc.add_OtpServiceServicer_to_server(api, server)],
                names=[SERVICE_NAME],
                domain="otp.kip",
                callers=callers,
                state=health,
                registry=registry,
                drain_grace=settings.drain_grace,
                tls=tls,
            )
        )
        parts.callback(health.stop)
        structlog.get_logger().info("serving", grpc=settings.grpc_address, http=settings.http_address)
        await until_stopped(
            stopping,
            following,
            changes.listen(),
            sweep_for_ever(SweepOutbox(store, announce), store, queue, metrics),
            tell_admission_for_ever(admit, policy, metrics),
            conclude_for_ever(ConcludeChallenges(store, policy)),
            watch_guesses_for_ever(watch, policy, metrics),
            tell_in_time_for_ever(restraint),
        )


def share_of_all(inboxes: Sequence[OrderedInbox]) -> float:
    """Return how many times as many delivery events there are as come here; 0 while none come here."""
    assigned = sum(len(inbox.assigned) for inbox in inboxes)
    return DELIVERY_PARTITIONS / assigned if assigned else 0.0


def show_policy(policy: Policy, metrics: OtpMetrics) -> None:
    """Export what alerts compare with."""
    for purpose in policy.purposes.values():
        metrics.queue_deadline.labels(purpose.name).set(purpose.deadline.total_seconds())
        metrics.queue_prompt.labels(purpose.name).set(purpose.prompt.total_seconds())
        metrics.queue_slow.labels(purpose.name).set(purpose.slow.total_seconds())
        metrics.lifetime.labels(purpose.name).set(purpose.life.total_seconds())
        metrics.reserve.labels(purpose.name).set(purpose.reserve.total_seconds())


async def conclude_for_ever(conclude: ConcludeChallenges) -> None:
    """Judge the codes of challenges that are over, every few seconds."""
    while True:
        try:
            await conclude()
        except StoreUnavailable:
            structlog.get_logger().warning("conclusion_skipped", why="store away")
        await asyncio.sleep(CONCLUDE_PAUSE.total_seconds())


async def watch_guesses_for_ever(watch: WatchGuesses, policy: Policy, metrics: OtpMetrics) -> None:
    """Look every few seconds whether somebody is guessing, and tell when that begins and ends."""
    while True:
        before = policy.strictness.is_on
        try:
            tally = await watch()
            metrics.failed_ratio.set(tally.ratio)
            metrics.attempts_halved.set(policy.strictness.is_on)
            if policy.strictness.is_on is not before:
                structlog.get_logger().warning("attempts_halved", now=policy.strictness.is_on, ratio=tally.ratio)
        except StoreUnavailable:
            structlog.get_logger().warning("guesses_not_counted", why="store away")
        await asyncio.sleep(WATCH_GUESSES_PAUSE.total_seconds())


async def tell_in_time_for_ever(restraint: RestrainReissue) -> None:
    """Tell every second which codes came in time, so that the machine may make letters by itself."""
    while True:
        try:
            await restraint.tell_in_time()
        except (StoreUnavailable, KeysUnknown):
            structlog.get_logger().warning("codes_in_time_not_told", why="store or keys away")
        await asyncio.sleep(TELL_IN_TIME_PAUSE.total_seconds())


async def tell_admission_for_ever(admit: AdmitLetter, policy: Policy, metrics: OtpMetrics) -> None:
    """Export every second how many are refused, and tell in the log when that begins and ends."""
    refusing = dict.fromkeys(policy.purposes, False)
    while True:
        for purpose in policy.purposes.values():
            share, is_refusing = admit.refusing(purpose.deadline, system_clock())
            metrics.admission_refused.labels(purpose.name).set(share)
            if is_refusing is not refusing[purpose.name]:
                refusing[purpose.name] = is_refusing
                structlog.get_logger().warning("admission_turned", purpose=purpose.name, refusing=is_refusing)
        await asyncio.sleep(TELL_ADMISSION_PAUSE.total_seconds())


async def sweep_for_ever(sweep: SweepOutbox, store: ChallengeStore, queue: Queue, metrics: OtpMetrics) -> None:
    """Sweep the outbox every second; a store that is away is away for the sweep too."""
    while True:
        try:
            waiting = await sweep()
            oldest = await store.outbox_oldest() if waiting else None
            queue.unpublished(waiting)
            metrics.outbox.set(waiting)
            metrics.outbox_oldest.set(oldest.timestamp() if oldest else 0)
            metrics.outbox_swept.set_to_current_time()
        except StoreUnavailable:
            structlog.get_logger().warning("sweep_skipped", why="store away")
        await asyncio.sleep(SWEEP_PAUSE.total_seconds())


def main() -> None:
    """Read the settings, then live."""
    settings = read_settings(OtpSettings)
    configure_telemetry("otp")
    run(lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    main()
