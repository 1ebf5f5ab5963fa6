"""What a process says: one JSON object a line, no secret in it, and no flood of the same line."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter

from services.chassis import telemetry
from services.chassis.telemetry import CHATTY, OncePerSecond, configure_telemetry, new_registry, redact

ADDRESS = "lan.nguyen+bhxh@example.com.vn"
CODE = "904817"


@dataclass
class Lines:
    """What was written since the last look."""

    output: io.StringIO

    def __call__(self) -> list[dict[str, Any]]:
        written = self.output.getvalue()
        self.output.seek(0)
        self.output.truncate()
        return [json.loads(line) for line in written.splitlines()]

    def one(self) -> dict[str, Any]:
        (line,) = self()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Log as a service does, and put everything back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        configure_telemetry("post")
    written = Lines(output)
    written()  # a second tracer provider in one process is worth a warning
    yield written
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


class Person:
    """An object whose repr says too much, as those of libraries do."""

    def __repr__(self) -> str:
        return f"Person({ADDRESS!r}, code={CODE!r})"


def record(name: str, message: str = "no broker", level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, None, None)


def test_an_event_is_one_line_with_service_level_time_and_fields(lines: Lines) -> None:
    structlog.get_logger().info("code_requested", reference="7F3K", wait_s=0.25)

    line = lines.one()

    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "code_requested",
        "level": "info",
        "reference": "7F3K",
        "service": "post",
        "wait_s": 0.25,
    }


def test_what_libraries_log_goes_through_the_same_door(lines: Lines) -> None:
    logging.getLogger("library.part").warning("cannot reach %s for %s", "relay", ADDRESS)

    line = lines.one()

    assert line["event"] == "cannot reach relay for ***@***"
    assert (line["logger"], line["level"], line["service"]) == ("library.part", "warning", "post")


def test_what_is_below_the_level_is_not_written(lines: Lines) -> None:
    structlog.get_logger().debug("too_much")
    logging.getLogger("library").debug("too much")

    assert lines() == []


@pytest.mark.parametrize("field", sorted(telemetry.SECRET_FIELDS))
def test_a_field_that_is_secret_by_its_name_is_masked(lines: Lines, field: str) -> None:
    structlog.get_logger().info("told", **{field: "anything", field.title(): "anything"})

    line = lines.one()

    assert (line[field], line[field.title()]) == ("***", "***")


@pytest.mark.parametrize(
    "text",
    [
        f"550 5.1.1 <{ADDRESS}>: unknown",
        f"to={ADDRESS}, relay=x",
        f"code={CODE}",
        f"code: {CODE}",
        f"code:{CODE}",
        f"the code is {CODE}.",
        f"({CODE})",
        f'{{"code":"{CODE}"}}',
        f"{CODE}, then something",
        CODE,
        "9048172",
        "90481726",
        "９０４８１７",
    ],
)
def test_text_that_looks_like_an_address_or_a_code_is_masked_wherever_it_stands(lines: Lines, text: str) -> None:
    log = structlog.get_logger()
    log.info(text)
    log.info("x", why=text)
    log.info("x", why=[text], more={"inner": {"why": (text,)}})
    logging.getLogger("library").warning(text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
        logging.getLogger("library").exception("failed")

    written = json.dumps(lines(), ensure_ascii=False)

    assert written.count("***") >= 6
    assert not any(secret in written for secret in (ADDRESS, CODE, "9048172", "90481726", "９０４８１７"))


def test_an_object_that_is_no_text_is_masked_as_it_would_be_printed(lines: Lines) -> None:
    structlog.get_logger().warning("failed", error=ValueError(ADDRESS), who=Person(), people=[Person()])

    written = json.dumps(lines())

    assert ADDRESS not in written
    assert CODE not in written
    assert "Person(" in written


def test_a_secret_field_inside_a_field_is_masked(lines: Lines) -> None:
    structlog.get_logger().info("told", request={"token": "abc", "people": [{"Email": "x", "kind": "y"}]})

    assert lines.one()["request"] == {"token": "***", "people": [{"Email": "***", "kind": "y"}]}


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-25T08:00:00.123456Z",
        "127.0.0.1:50051",
        "offset 12345 of partition 3",
        "3f2a1b4c-1234567-x",
        "0.123456",
        "v1.234567",
        "user@host",
        "challenge 01J8X7Q2345678",
        "123456789",
    ],
)
def test_what_only_resembles_a_secret_stays_readable(lines: Lines, text: str) -> None:
    structlog.get_logger().info("told", why=text)

    assert lines.one()["why"] == text


def test_numbers_stay_numbers(lines: Lines) -> None:
    structlog.get_logger().info("told", offset=1234567, share=0.5, missing=None, good=True)

    line = lines.one()

    assert (line["offset"], line["share"], line["missing"], line["good"]) == (1234567, 0.5, None, True)


def test_redaction_changes_nothing_of_what_it_was_given() -> None:
    given: Mapping[str, Any] = {"event": "x", "inner": {"token": "abc"}}

    redact(None, "info", dict(given))

    assert given == {"event": "x", "inner": {"token": "abc"}}


def test_a_line_inside_a_span_names_its_trace(lines: Lines) -> None:
    with trace.get_tracer("test").start_as_current_span("call") as span:
        structlog.get_logger().info("inside")

    assert lines.one()["trace_id"] == f"{span.get_span_context().trace_id:032x}"


def test_the_traceback_is_in_the_line_of_its_exception(lines: Lines) -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        structlog.get_logger().exception("failed")

    line = lines.one()

    assert line["level"] == "error"
    assert "Traceback (most recent call last)" in line["exception"]
    assert "KeyError: 'missing'" in line["exception"]


@pytest.mark.parametrize("name", CHATTY)
def test_a_chatty_library_is_heard_once_a_second_per_message(lines: Lines, name: str) -> None:
    for _ in range(100):
        logging.getLogger(f"{name}.part").warning("no broker")
        logging.getLogger(f"{name}.part").warning("no group")
        logging.getLogger(f"{name}.part").info("still trying")

    assert [line["event"] for line in lines()] == ["no broker", "no group"]


def test_our_own_lines_are_never_thinned_out(lines: Lines) -> None:
    for _ in range(100):
        structlog.get_logger("kafkaesque").warning("no broker")
        logging.getLogger("kafkaesque").warning("no broker")

    assert len(lines()) == 200


def test_a_message_is_heard_again_after_a_second() -> None:
    now = 100.0
    once = OncePerSecond(lambda: now)

    heard = []
    for now in (100.0, 100.5, 100.99, 101.0, 101.5, 102.1):  # noqa: B007 - the clock reads it
        heard.append(once.filter(record("kafka")))

    assert heard == [True, False, False, True, False, True]


def test_messages_that_are_all_different_do_not_fill_the_memory() -> None:
    once = OncePerSecond()

    heard = [once.filter(record("kafka", f"offset {number}")) for number in range(5_000)]

    assert all(heard)
    assert len(once) <= 1_001


def test_a_registry_says_what_runs_what_time_it_is_and_holds_what_it_was_given() -> None:
    counter = Counter("post_letters", "Letters.", registry=None)
    counter.inc()

    registry = new_registry("post", "0.1.0", counter)

    assert registry.get_sample_value("post_build_info", {"version": "0.1.0"}) == 1
    assert registry.get_sample_value("post_letters_total") == 1
    assert isinstance(registry, CollectorRegistry)
    others = {family.name for family in registry.collect() if not family.name.startswith("process_")}
    assert others == {"post_build", "post_letters"}
    clock = registry.get_sample_value("process_clock_timestamp_seconds")
    assert clock is not None
    assert abs(clock - time.time()) < 5
