"""`python -m services.mailer`: how the mailer is joined.

Two lanes that share nothing but the process, and beside them the wishes, which must never wait behind the letters that
they are about.
"""

from __future__ import annotations

from asyncio import Semaphore, Task
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

import structlog

from services.chassis.clock import system_clock
from services.chassis.grpc_server import probe_server
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_producer import Producer, producing
from services.chassis.keyring import Keyring, read_keyring
from services.chassis.ordered_inbox import InboxOptions, OrderedInbox, inbox_running
from services.chassis.process import Stopping, run, until_stopped
from services.chassis.redis_servers import redis_servers
from services.chassis.settings import read_settings, reading_files
from services.chassis.telemetry import Health, configure_telemetry, http_page, new_registry
from services.mailer.actions.bury import BuryLetter
from services.mailer.actions.defer import DeferLetter
from services.mailer.actions.deliver import DeliverLetter
from services.mailer.actions.heed import HeedWish
from services.mailer.inbound.kafka_inbox import (
    CODE_WANTED,
    GROUPS,
    TOPICS,
    WANTED_GROUP,
    CodeOrders,
    DeadOrders,
    LetterInbox,
    NoticeOrders,
    WantedInbox,
)
from services.mailer.inbound.kafka_tiers import IN_HAND, TierInbox, tier_group
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.outbound.kafka_events import KafkaEvents
from services.mailer.outbound.kafka_retries import KafkaRetries, tier_topic
from services.mailer.outbound.keyring_envelopes import KeyringEnvelopes
from services.mailer.outbound.redis_ledger import RedisLedger, redis_client
from services.mailer.outbound.smtp_gateway import Notifications, Relay, SmtpGateway, relay_tls
from services.mailer.rules.breaker import Breaker
from services.mailer.rules.letter import Lane, Sender
from services.mailer.rules.schedule import Schedule, Tier
from services.mailer.settings import MailerSettings


@dataclass(frozen=True, slots=True)
class Shared:
    """What both lanes read and neither can use up."""

    settings: MailerSettings
    relay: Relay
    notifications: Notifications | None
    code_keys: Keyring
    texts: JinjaTexts
    metrics: MailerMetrics
    inbox_metrics: InboxMetrics
    health: Health
    otp_ledger: Breaker
    """Codes and wishes about codes share one: it is the same server."""


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """What differs from lane to lane."""

    lane: Lane
    read: CodeOrders | NoticeOrders
    slots: int
    reply_timeout: timedelta
    delays: Sequence[timedelta]
    breaker: Breaker


@dataclass(frozen=True, slots=True)
class LaneHands:
    """What all inboxes of a lane work with."""

    producer: Producer
    letters: LetterInbox
    dead: DeadOrders


Running = list[tuple[OrderedInbox, Task[None]]]


async def serve(settings: MailerSettings, stopping: Stopping) -> None:
    """Mail until `stopping`, then let letters in hand finish."""
    with reading_files():
        code_keys = read_keyring(settings.code_keys_file)
        seal_code_keys = read_keyring(settings.seal_code_keys_file)
        seal_notice_keys = read_keyring(settings.seal_notice_keys_file)
        codes = CodeOrders(seal_code_keys, ZoneInfo(settings.time_zone))
        notices = NoticeOrders(seal_notice_keys, settings.patience_notice)
        texts = JinjaTexts()
        relay = _relay(settings)
        notifications = _notifications(settings)
    health = Health()
    registry = new_registry("mailer", "0.1.0")
    breaker = Breaker()
    metrics, inboxes = MailerMetrics(registry), InboxMetrics.on(registry)
    for name, ring in (("code", code_keys), ("seal_code", seal_code_keys), ("seal_notice", seal_notice_keys)):
        ring.on_unknown.append(metrics.keys_unknown.labels(name).inc)
    shared = Shared(settings, relay, notifications, code_keys, texts, metrics, inboxes, health, breaker)
    otp = LaneOptions(
        Lane.OTP, codes, settings.slots_otp, settings.reply_timeout_otp, settings.retry_delays_otp, breaker
    )
    notice = LaneOptions(
        Lane.NOTICE,
        notices,
        settings.slots_notice,
        settings.reply_timeout_notice,
        settings.retry_delays_notice,
        Breaker(),
    )
    async with AsyncExitStack() as parts:
        await parts.enter_async_context(http_page(settings.http_address, registry, health))
        await parts.enter_async_context(probe_server(settings.probe_address, health))
        running = [
            *await open_lane(parts, shared, otp),
            *await open_lane(parts, shared, notice),
            await open_wishes(parts, shared),
        ]
        for inbox, _task in running:
            parts.callback(inbox.stop)  # all at once: one must not go on taking while another drains
        parts.callback(health.stop)
        structlog.get_logger().info("serving", relay=settings.relay_address, http=settings.http_address)
        await until_stopped(stopping, *(task for _inbox, task in running))


async def open_lane(parts: AsyncExitStack, shared: Shared, options: LaneOptions) -> Running:
    """Open a lane: its own producer, Redis pool, SMTP slots and inboxes, which run; one for orders, one per tier."""
    settings, lane = shared.settings, options.lane
    producer = await parts.enter_async_context(producing(settings, f"mailer-{lane}"))
    redis = await parts.enter_async_context(redis_servers(settings, redis_client))
    gateway = SmtpGateway(
        shared.relay,
        lane=lane,
        slots=options.slots,
        reply_timeout=options.reply_timeout,
        clock=system_clock,
        metrics=shared.metrics,
        notifications=shared.notifications,
    )
    parts.push_async_callback(gateway.close)
    ledger = RedisLedger(redis, lane, shared.metrics, breaker=options.breaker)
    await ledger.open_connections()
    events = KafkaEvents(producer, system_clock)
    deliver = DeliverLetter(
        gateway,
        ledger,
        events,
        shared.texts,
        clock=system_clock,
        sender=Sender(settings.sender_name, settings.sender_address, settings.return_path or ""),
        code_keys=shared.code_keys,
    )
    schedule = Schedule(lane, options.delays)
    retries = KafkaRetries(producer, schedule.tiers, shared.metrics)
    defer = DeferLetter(retries, ledger, events, clock=system_clock, schedule=schedule)
    hands = LaneHands(
        producer,
        LetterInbox(options.read, deliver, defer, shared.metrics),
        DeadOrders(lane, BuryLetter(events, clock=system_clock), shared.metrics),
    )
    in_turn = 4 * options.slots
    turns = Semaphore(in_turn)
    inboxes = [
        lane_inbox(shared, hands, lane, in_turn),
        *(tier_inbox(shared, hands, tier, turns) for tier in schedule.tiers),
    ]
    return [(inbox, await parts.enter_async_context(inbox_running(inbox))) for inbox in inboxes]


def lane_inbox(shared: Shared, hands: LaneHands, lane: Lane, in_turn: int) -> OrderedInbox:
    """Return the inbox of a lane's orders, so many of which are tried at once."""
    return OrderedInbox(
        shared.settings,
        group=GROUPS[lane],
        topic=TOPICS[lane],
        handle=hands.letters,
        producer=hands.producer,
        metrics=shared.inbox_metrics,
        health=shared.health,
        options=InboxOptions(drain_grace=shared.settings.drain_grace, concurrency=in_turn),
        on_dead=hands.dead,
    )


def tier_inbox(shared: Shared, hands: LaneHands, tier: Tier, turns: Semaphore) -> OrderedInbox:
    """Return the inbox of a tier; what can never be mailed goes to the dead letters of its lane, where people look."""
    waits = TierInbox(tier, hands.letters, turns=turns, clock=system_clock)
    options = InboxOptions(
        window=IN_HAND,
        concurrency=IN_HAND,
        drain_grace=shared.settings.drain_grace,
        buried_in=f"{TOPICS[tier.lane]}.dead",
        waiting=waits.waiting,
    )
    return OrderedInbox(
        shared.settings,
        group=tier_group(tier),
        topic=tier_topic(tier),
        handle=waits,
        producer=hands.producer,
        metrics=shared.inbox_metrics,
        health=shared.health,
        options=options,
        on_dead=hands.dead,
    )


async def open_wishes(parts: AsyncExitStack, shared: Shared) -> tuple[OrderedInbox, Task[None]]:
    """Open the road of wishes about codes: its own producer, Redis pool and inbox, which runs."""
    settings = shared.settings
    producer = await parts.enter_async_context(producing(settings, "mailer-wanted"))
    redis = await parts.enter_async_context(redis_servers(settings, redis_client))
    ledger = RedisLedger(redis, Lane.OTP, shared.metrics, breaker=shared.otp_ledger)
    await ledger.open_connections()
    inbox = OrderedInbox(
        settings,
        group=WANTED_GROUP,
        topic=CODE_WANTED,
        handle=WantedInbox(HeedWish(ledger, clock=system_clock), shared.metrics),
        producer=producer,
        metrics=shared.inbox_metrics,
        health=shared.health,
        options=InboxOptions(drain_grace=settings.drain_grace),
    )
    return inbox, await parts.enter_async_context(inbox_running(inbox))


def _relay(settings: MailerSettings) -> Relay:
    return Relay(
        name="relay-1",
        address=settings.relay_address,
        tls=relay_tls(settings.relay_ca_file) if settings.relay_starttls else None,
        user=settings.relay_user,
        password=settings.relay_password.get_secret_value() if settings.relay_password else None,
    )


def _notifications(settings: MailerSettings) -> Notifications | None:
    if settings.receipt_keys_file is None:
        return None
    return Notifications(KeyringEnvelopes(read_keyring(settings.receipt_keys_file)), settings.notify)


def main() -> None:
    """Read the settings, then live."""
    settings = read_settings(MailerSettings)
    configure_telemetry("mailer")
    run(lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    main()
