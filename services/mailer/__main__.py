"""`python -m services.mailer`: how the mailer is joined.

Two lanes that share nothing but the process, and beside them the wishes, which must never wait behind the letters that
they are about.
"""

from __future__ import annotations

from asyncio import Task
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

import structlog

from services.chassis.clock import system_clock
from services.chassis.grpc_server import probe_server
from services.chassis.kafka_producer import producing
from services.chassis.keyring import Keyring, read_keyring
from services.chassis.ordered_inbox import InboxMetrics, InboxOptions, OrderedInbox, inbox_running
from services.chassis.process import Stopping, run, until_stopped
from services.chassis.settings import read_settings, reading_files
from services.chassis.telemetry import Health, configure_telemetry, http_page, new_registry
from services.mailer.actions.deliver import DeliverLetter
from services.mailer.actions.heed import HeedWish
from services.mailer.inbound.kafka_inbox import (
    CODE_WANTED,
    GROUPS,
    TOPICS,
    WANTED_GROUP,
    CodeOrders,
    LetterInbox,
    NoticeOrders,
    WantedInbox,
)
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.outbound.kafka_events import KafkaEvents
from services.mailer.outbound.redis_ledger import RedisLedger, redis_client
from services.mailer.outbound.smtp_gateway import Relay, SmtpGateway, relay_tls
from services.mailer.rules.letter import Lane, Sender
from services.mailer.settings import MailerSettings


@dataclass(frozen=True, slots=True)
class Shared:
    """What both lanes read and neither can use up."""

    settings: MailerSettings
    relay: Relay
    code_keys: Keyring
    texts: JinjaTexts
    metrics: MailerMetrics
    inbox_metrics: InboxMetrics
    health: Health


async def serve(settings: MailerSettings, stopping: Stopping) -> None:
    """Mail until `stopping`, then let letters in hand finish."""
    with reading_files():
        code_keys = read_keyring(settings.code_keys_file)
        seal_code_keys = read_keyring(settings.seal_code_keys_file)
        seal_notice_keys = read_keyring(settings.seal_notice_keys_file)
        codes = CodeOrders(seal_code_keys, ZoneInfo(settings.time_zone))
        notices = NoticeOrders(seal_notice_keys)
        texts = JinjaTexts()
        relay = _relay(settings)
    health = Health()
    registry = new_registry("mailer", "0.1.0")
    metrics = MailerMetrics(registry)
    for name, ring in (("code", code_keys), ("seal_code", seal_code_keys), ("seal_notice", seal_notice_keys)):
        ring.on_unknown.append(metrics.keys_unknown.labels(name).inc)
    shared = Shared(settings, relay, code_keys, texts, metrics, InboxMetrics.on(registry), health)
    async with AsyncExitStack() as parts:
        await parts.enter_async_context(http_page(settings.http_address, registry, health))
        await parts.enter_async_context(probe_server(settings.probe_address, health))
        otp, otp_running = await open_lane(
            parts, shared, Lane.OTP, codes, slots=settings.slots_otp, reply_timeout=settings.reply_timeout_otp
        )
        notice, notice_running = await open_lane(
            parts,
            shared,
            Lane.NOTICE,
            notices,
            slots=settings.slots_notice,
            reply_timeout=settings.reply_timeout_notice,
        )
        wanted, wanted_running = await open_wishes(parts, shared)
        for inbox in (otp, notice, wanted):
            parts.callback(inbox.stop)  # all at once: one must not go on taking while another drains
        parts.callback(health.stop)
        structlog.get_logger().info("serving", relay=settings.relay_address, http=settings.http_address)
        await until_stopped(stopping, otp_running, notice_running, wanted_running)


async def open_lane(
    parts: AsyncExitStack,
    shared: Shared,
    lane: Lane,
    read: CodeOrders | NoticeOrders,
    *,
    slots: int,
    reply_timeout: timedelta,
) -> tuple[OrderedInbox, Task[None]]:
    """Open a lane: its own producer, Redis pool, SMTP slots and inbox, which runs."""
    settings = shared.settings
    producer = await parts.enter_async_context(producing(settings, f"mailer-{lane}"))
    redis = await parts.enter_async_context(redis_client(settings.redis_url.get_secret_value()))
    gateway = SmtpGateway(
        shared.relay,
        lane=lane,
        slots=slots,
        reply_timeout=reply_timeout,
        clock=system_clock,
        metrics=shared.metrics,
    )
    parts.push_async_callback(gateway.close)
    ledger = RedisLedger(redis, lane, shared.metrics)
    await ledger.open_connections()
    deliver = DeliverLetter(
        gateway,
        ledger,
        KafkaEvents(producer, system_clock),
        shared.texts,
        clock=system_clock,
        sender=Sender(settings.sender_name, settings.sender_address),
        code_keys=shared.code_keys,
    )
    inbox = OrderedInbox(
        settings,
        group=GROUPS[lane],
        topic=TOPICS[lane],
        handle=LetterInbox(read, deliver, shared.metrics),
        producer=producer,
        metrics=shared.inbox_metrics,
        health=shared.health,
        options=InboxOptions(drain_grace=settings.drain_grace, concurrency=4 * slots),
    )
    return inbox, await parts.enter_async_context(inbox_running(inbox))


async def open_wishes(parts: AsyncExitStack, shared: Shared) -> tuple[OrderedInbox, Task[None]]:
    """Open the road of wishes about codes: its own producer, Redis pool and inbox, which runs."""
    settings = shared.settings
    producer = await parts.enter_async_context(producing(settings, "mailer-wanted"))
    redis = await parts.enter_async_context(redis_client(settings.redis_url.get_secret_value()))
    ledger = RedisLedger(redis, Lane.OTP, shared.metrics)
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


def main() -> None:
    """Read the settings, then live."""
    settings = read_settings(MailerSettings)
    configure_telemetry("mailer")
    run(lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    main()
