"""`python -m services.mailer.receipts`: the mailer's second process, which hears what became of its letters.

It is a process of its own so that a flood of bounces, or a log of gigabytes, takes nothing from the letters that leave;
and it must run where the relay's log can be read, while mailers run anywhere. One follows one log; notifications may
come to any number.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from services.chassis.clock import system_clock
from services.chassis.grpc_server import probe_server
from services.chassis.kafka_producer import producing
from services.chassis.keyring import Keyring, read_keyring
from services.chassis.process import Stopping, run, until_stopped
from services.chassis.redis_servers import redis_servers
from services.chassis.retry import patiently
from services.chassis.settings import read_settings, reading_files
from services.chassis.telemetry import Health, configure_telemetry, http_page, new_registry
from services.mailer.actions.settle import SettleReceipt
from services.mailer.inbound.file_tail import FileTail, Place
from services.mailer.inbound.postfix_log import PostfixLog
from services.mailer.inbound.smtp_returns import TakeReport, returns_listening
from services.mailer.metrics import ReceiptMetrics
from services.mailer.outbound.kafka_events import KafkaEvents
from services.mailer.outbound.keyring_envelopes import KeyringEnvelopes
from services.mailer.outbound.redis_ledger import redis_client
from services.mailer.outbound.redis_receipts import RedisReceipts
from services.mailer.ports import LedgerAway, ReceiptBook
from services.mailer.rules.receipt import Backoff
from services.mailer.settings import ReceiptsSettings


async def serve(settings: ReceiptsSettings, stopping: Stopping) -> None:
    """Take in receipts until `stopping`."""
    with reading_files():
        ring = read_keyring(settings.receipt_keys_file) if settings.receipt_keys_file else None
    health = Health()
    registry = new_registry("mailer", "0.1.0")
    metrics = ReceiptMetrics(registry)
    async with AsyncExitStack() as parts:
        await enter_pages(parts, settings, registry, health)
        redis = await parts.enter_async_context(redis_servers(settings, redis_client))
        producer = await parts.enter_async_context(producing(settings, "mailer-receipts"))
        book = RedisReceipts(redis)
        settle = SettleReceipt(book, KafkaEvents(producer, system_clock))
        await patiently(lambda: book.bookmark(settings.log_route), what="Redis (RECEIPTS_REDIS_URL)", on=(LedgerAway,))
        if settings.smtp_address is not None and ring is not None:
            await listen(parts, settings, ring, settle, metrics)
        health.part("receipts", ready=True)
        parts.callback(health.stop)
        structlog.get_logger().info("serving", smtp=settings.smtp_address, log=str(settings.log_file))
        log = settings.log_file
        following = [follow(log, settings, settle, book, metrics)] if log is not None else []
        await until_stopped(stopping, *following, asyncio.Event().wait())


async def enter_pages(
    parts: AsyncExitStack, settings: ReceiptsSettings, registry: CollectorRegistry, health: Health
) -> None:
    """Serve metrics and health; not ready yet."""
    health.part("receipts", ready=False)
    await parts.enter_async_context(http_page(settings.http_address, registry, health))
    await parts.enter_async_context(probe_server(settings.probe_address, health))


async def listen(
    parts: AsyncExitStack,
    settings: ReceiptsSettings,
    ring: Keyring,
    settle: SettleReceipt,
    metrics: ReceiptMetrics,
) -> None:
    """Take mails to the return path."""
    take = TakeReport(KeyringEnvelopes(ring), settle, metrics, system_clock)
    address = settings.smtp_address or ""
    await parts.enter_async_context(returns_listening(address, settings.return_path, take, metrics))


async def follow(
    path: Path, settings: ReceiptsSettings, settle: SettleReceipt, book: ReceiptBook, metrics: ReceiptMetrics
) -> None:
    """Follow the log, for ever."""
    kept = await patiently(partial(book.bookmark, settings.log_route), what="Redis", on=(LedgerAway,), within=None)
    place = Place.unpacked(kept) if kept else None
    backoff = Backoff(settings.log_backoff_least, settings.log_backoff_most)
    with closing(FileTail(path, place, lambda what: metrics.log_turns.labels(what).inc())) as tail:
        log = PostfixLog(tail, settle, book, metrics, route=settings.log_route, backoff=backoff, clock=system_clock)
        await log.follow()


def main() -> None:
    """Read the settings, then live."""
    settings = read_settings(ReceiptsSettings)
    configure_telemetry("mailer")
    run(lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    main()
