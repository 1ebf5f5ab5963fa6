"""A Faust app as `ordered_inbox` needs it: built in a factory, one intake, everything else of Faust switched off.

No tables, no web server, no topics of its own, no leader election, no producer in use: what is left is membership of a
group, fetching and back-pressure. Each setting that differs from Faust's default says why.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import faust
import structlog
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

from services.chassis.settings import KafkaSettings

STOP_TIMEOUT_S = 5.0  # for the last commit and the good-bye to the group; past it the group finds out by itself
TOPIC_FOUND_WITHIN_MS = 5_000  # one that is made, or gets partitions, after we joined; the default is five minutes
FETCH_OCTETS = 16 * 1024
"""Of a partition at a time, or one batch if that is larger. Partitions take turns within what is fetched together: with
the default, 1 MiB, one that was fetched when it was long goes on for minutes while the heads of others wait."""
HELD_AT_MOST_S = (
    24 * 3600
)  # a handler may wait for hours, such as for a time that its record names; lag tells a hung one


class _Diskless(faust.App):
    """Faust makes folders for tables at the start; we have no tables, and a read-only file system."""

    def _create_directories(self) -> None:
        pass


NOTHING = TP("", -1)  # of no topic: an empty set would mean "all"


def _picky(not_now: Callable[[int], bool]) -> type[Consumer]:
    """Return a consumer that leaves out, fetch by fetch, the partitions that nobody wants now; others go on.

    Faust's own `pause_partitions` would do, but it throws away what was fetched and not handed out yet, without ever
    fetching it again. The broker must be asked all the same, even for nothing: a consumer that does not ask for long
    loses its place in the group.
    """

    class Picky(Consumer):
        async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - not ours
            left_out = {place for place in active_partitions or () if not_now(place.partition)}
            if active_partitions and left_out:
                return await super()._getmany(active_partitions - left_out or {NOTHING}, timeout)
            return await super()._getmany(active_partitions, timeout)  # the set itself: it follows a rebalance

    return Picky


def build_app(
    settings: KafkaSettings,
    *,
    group: str,
    topic: str,
    intake: Callable[[Any], Awaitable[None]],
    session_timeout: timedelta,
    buffer: int,
    not_now: Callable[[int], bool],
) -> faust.App:
    """Return an app that feeds the raw records of `topic` to `intake`; nothing is connected yet.

    Args:
        settings: where the brokers are, and who we are.
        group: the consumer group, and the name of the app.
        topic: the one topic.
        intake: gets Faust's stream; must never raise.
        session_timeout: after a kill, how long the group waits before it gives the partitions to somebody else.
        buffer: records that are fetched ahead.
        not_now: asked before each fetch which partitions to leave out of it.
    """
    seconds = session_timeout.total_seconds()
    app = _Diskless(
        group,
        broker=[f"kafka://{broker}" for broker in settings.kafka_brokers.split(",")],
        broker_credentials=_credentials(settings),
        autodiscover=False,
        store="memory://",
        web_enabled=False,  # it would serve its tables to anybody
        topic_disable_leader=True,  # it would create a topic of its own
        topic_allow_declare=False,  # topics are made by deploy/create_topics.py
        table_standby_replicas=0,  # any other number brings Faust's own assignor
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=TOPIC_FOUND_WITHIN_MS,
        broker_session_timeout=seconds,
        broker_heartbeat_interval=seconds / 4,
        broker_request_timeout=seconds + 5,  # must not be shorter than the session
        broker_commit_interval=0.5,  # what a crash repeats beyond the window
        broker_max_poll_interval=HELD_AT_MOST_S,  # the default leaves the group while a full window waits for its time
        broker_commit_livelock_soft_timeout=HELD_AT_MOST_S,  # the same, as an error in the log
        stream_processing_timeout=HELD_AT_MOST_S,  # the same
        stream_buffer_maxsize=buffer,
        consumer_max_fetch_size=FETCH_OCTETS,
        producer_request_timeout=15,  # the default is twenty minutes
        worker_redirect_stdouts=False,
    )
    app.transport.Consumer = _picky(not_now)  # type: ignore[misc] # Faust makes its consumer without a word of ours
    raw = app.topic(topic, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
    app.agent(raw, name=f"{group}-intake", concurrency=1)(intake)
    return app


@asynccontextmanager
async def running(app: faust.App) -> AsyncIterator[None]:
    """Run a Faust app and stop it within `STOP_TIMEOUT_S`, also when its stop refuses to end.

    The library's `faust_app_running` cancels such a stop and waits for it without end; seen once in dozens of stops.
    """
    app.finalize()
    await app.maybe_start()
    try:
        yield
    finally:
        stop = asyncio.create_task(app.stop())
        done, _ = await asyncio.wait({stop}, timeout=STOP_TIMEOUT_S)
        if done:
            stop.result()
        else:
            stop.cancel()
            structlog.get_logger().warning("consumer_did_not_stop", app=app.conf.id)


def _credentials(settings: KafkaSettings) -> Any:
    context = ssl.create_default_context(cafile=settings.kafka_ca_file) if settings.kafka_tls else None
    if settings.kafka_user and settings.kafka_password:
        return faust.SASLCredentials(
            username=settings.kafka_user,
            password=settings.kafka_password.get_secret_value(),
            ssl_context=context,
            mechanism="SCRAM-SHA-512",
        )
    return faust.SSLCredentials(context=context) if context else None
