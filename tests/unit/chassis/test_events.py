"""Envelopes: what is written as headers is read back, and what is missing is named."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.chassis.events import Envelope, current_trace, envelope_of

NOW = datetime(2026, 11, 25, 8, 0, 0, 250, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT = Envelope(
    topic="otp.code-requested.v1",
    key=b"challenge-1",
    value=b"\x0a\x01x",
    type="kip.otp.v1.CodeRequested",
    source="otp",
    subject="challenge-1",
    time=NOW,
    expires=NOW + timedelta(minutes=14),
    id="challenge-1.1",
    trace={"traceparent": TRACEPARENT, "tracestate": "vendor=1"},
)

words = st.text(min_size=1)
instants = st.datetimes(
    min_value=datetime(1, 1, 3),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001 - the strategy adds the zone
    timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
)


def again(event: Envelope) -> Envelope:
    return envelope_of(event.topic, event.key, event.value, dict(event.headers()))


def without(name: str) -> dict[str, bytes]:
    return {key: value for key, value in EVENT.headers() if key != name}


@given(
    event=st.builds(
        Envelope,
        topic=words,
        key=st.binary(),
        value=st.binary(),
        type=words,
        source=words,
        subject=words,
        time=instants,
        expires=st.none() | instants,
        id=words,
        trace=st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), words),
    )
)
def test_an_event_is_read_back_as_it_was_written(event: Envelope) -> None:
    assert again(event) == event


def test_the_headers_are_those_of_cloudevents_and_trace_context() -> None:
    assert dict(EVENT.headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": b"challenge-1.1",
        "ce_type": b"kip.otp.v1.CodeRequested",
        "ce_source": b"otp",
        "ce_subject": b"challenge-1",
        "ce_time": b"2026-11-25T08:00:00.000250Z",
        "content-type": b"application/protobuf",
        "expirytime": b"2026-11-25T08:14:00.000250Z",
        "traceparent": TRACEPARENT.encode(),
        "tracestate": b"vendor=1",
    }


def test_an_event_that_stays_true_has_no_expirytime() -> None:
    event = replace(EVENT, expires=None)

    assert "expirytime" not in dict(event.headers())
    assert again(event).expires is None


def test_events_have_ids_of_their_own_unless_they_are_given_one() -> None:
    first, second = (Envelope("t", b"", b"", "type", "source", "subject", NOW) for _ in range(2))

    assert first.id != second.id


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_source", "ce_subject", "ce_time"])
def test_a_header_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"header {name} is missing"):
        envelope_of("t", b"", b"", without(name))


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "traceparent"])
def test_a_header_that_is_no_text_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"header {name} is not UTF-8"):
        envelope_of("t", b"", b"", dict(EVENT.headers()) | {name: b"\xff"})


@pytest.mark.parametrize("name", ["ce_time", "expirytime"])
@pytest.mark.parametrize("value", [b"yesterday", b"2026-11-25T08:00:00", b"25/11/2026", b"\xc3\xa9"])
def test_a_time_that_is_none_is_named(name: str, value: bytes) -> None:
    with pytest.raises(ValueError, match=f"header {name}"):
        envelope_of("t", b"", b"", dict(EVENT.headers()) | {name: value})


def test_a_time_of_another_zone_is_the_same_instant() -> None:
    headers = dict(EVENT.headers()) | {"ce_time": b"2026-11-25T15:00:00.000250+07:00"}

    assert envelope_of("t", b"", b"", headers).time == NOW


def test_headers_of_others_are_no_trouble() -> None:
    headers = dict(EVENT.headers()) | {"dead-reason": b"\xff", "x": b""}

    assert envelope_of(EVENT.topic, EVENT.key, EVENT.value, headers) == EVENT


def test_the_current_span_is_carried_on() -> None:
    tracer = TracerProvider().get_tracer("test")

    with tracer.start_as_current_span("call") as span:
        carried = current_trace()

    context = span.get_span_context()
    assert carried == {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    assert again(replace(EVENT, trace=carried)).trace == carried


def test_without_a_span_nothing_is_carried() -> None:
    assert not trace.get_current_span().get_span_context().is_valid

    assert current_trace() == {}


def test_times_are_written_in_utc_to_the_microsecond() -> None:
    hanoi = NOW.astimezone(timezone(timedelta(hours=7)))

    written = dict(replace(EVENT, time=hanoi).headers())["ce_time"]

    assert re.fullmatch(rb"2026-11-25T08:00:00\.000250Z", written)
