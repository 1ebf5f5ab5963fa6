"""`python -m deploy.dev.demo_late --to lan@example.vn`: the mail that comes ten minutes late, as you watch.

A real Postfix is the relay; behind it the demo inbox plays a mailbox provider that greylists, as many do: "450, try
again", twice. At Postfix's own settings each of those costs 5 to 10 minutes, and a code that lives five minutes from
the click is dead when it arrives. A minute of the story takes `MINUTE` here; all else is the stack as it is.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from kafka import KafkaConsumer, TopicPartition
from kip.mailer.v1 import mail_events_pb2
from kip.otp.v1 import otp_service_pb2 as codes

from deploy.dev.cache_folder import one_at_a_time
from deploy.dev.demo import CODE, CONTEXT, DemoFailed
from deploy.dev.demo_command import run_demo
from deploy.dev.demo_late_story import Event, Story, in_story, ordinary_end, rows_of
from deploy.dev.demo_portal import PURPOSE, Portal
from deploy.dev.demo_screen import Ink, Screen, padded
from deploy.dev.inbox.client import InboxClient, Mail
from deploy.dev.ports import FreePort
from deploy.dev.postfix_relay import PostfixRelay, why_missing
from deploy.dev.problem import LaptopProblem, disk_full_told
from deploy.dev.process_table import PROCESSES, RECEIPTS
from deploy.dev.python_process import CHECKOUT
from deploy.dev.stack import Stack

T = TypeVar("T")
MINUTE = timedelta(seconds=3)
WITHIN_S = 60.0
LOOK_EVERY_S = 0.1
GREYLISTED = {"stage": "rcpt", "action": "reply", "code": 450, "text": "4.7.1 greylisted, try again", "times": 2}
POSTFIX = {"minimal_backoff_time": 5, "maximal_backoff_time": 67, "queue_run_delay": 5, "maximal_queue_lifetime": 7200}
"""Postfix's own settings, in minutes."""
LIFE, MAX_LIFE, RESERVE, PATIENCE, CHALLENGE_LIFE = 5, 10, 1, 15, 30  # minutes, as in services/otp/policy.yaml
OURS = 47  # columns of what happened


class LateDemo:
    """Tells the story on a stack that runs."""

    def __init__(self, stack: Stack, screen: Screen, email: str) -> None:
        self._stack = stack
        self._screen = screen
        self._email = email
        self._inbox = InboxClient(f"http://{stack.address('inbox.http')}")

    def run(self) -> Story:
        """Tell it; return what happened.

        Raises:
            LaptopProblem: a service refused, or something did not come in time.
        """
        screen = self._screen
        to_otp, to_dossier = self._stack.address("otp.grpc"), self._stack.address("dossier.grpc")
        with Portal(to_otp, to_dossier, self._stack.caller_token) as portal:
            screen.step(f"The mailbox's server greylists {self._email}; the citizen clicks once, and waits")
            self._inbox.set_behaviour(GREYLISTED)
            asked_at = datetime.now(UTC)
            handle = portal.request_code(self._email, CONTEXT).handle
            healed = self._wait("a second letter", lambda: self._with_two_letters(portal, handle))
            second = self._wait("a mail", lambda: self._mail_of(2))
            screen.say(f"✉  {second.subject}")
            screen.say(next(line for line in (second.text or "").splitlines() if "late" in line), Ink.FAINT)
            accepted = portal.verify(handle, self._code_in(second))
            if accepted.WhichOneof("outcome") != "accepted":
                raise DemoFailed("The fresh code was not accepted. See the logs of otp.")
            verified_at = datetime.now(UTC)
            screen.step("Verified. And when would the first mail have come?")
            first = self._wait("the first mail", lambda: self._mail_of(1))
            return Story(
                asked_at=asked_at,
                verified_at=verified_at,
                verified_by=2,
                life=LIFE * MINUTE,
                reissued_at=_instant(healed.letters[0].queued_at),
                arrived={1: first.received_at, 2: second.received_at},
                events=self._events(healed.challenge_id),
            )

    def _with_two_letters(self, portal: Portal, handle: str) -> codes.Challenge | None:
        challenge = portal.look(handle)
        return challenge if len(challenge.letters) > 1 else None

    def _mail_of(self, letter: int) -> Mail | None:
        for mail in self._inbox.messages(to=self._email):
            if mail.headers.get("X-Kip-Letter", "").endswith(f".{letter}"):
                return self._inbox.mail(mail.id)
        return None

    def _wait(self, what: str, look: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + WITHIN_S
        while (seen := look()) is None:
            if time.monotonic() > deadline:
                logs = self._stack.directory / "logs"
                raise DemoFailed(f"Waited {WITHIN_S:g} s for {what}. See {logs}, then try again: make demo-late")
            time.sleep(LOOK_EVERY_S)
        return seen

    def _code_in(self, mail: Mail) -> str:
        found = CODE.search(mail.text or "")
        if found is None:
            raise DemoFailed(f"The mail holds no code. It is kept below {self._stack.directory / 'inbox'}.")
        return found[1]

    def _events(self, challenge_id: str) -> list[Event]:
        """Read what the mailer and its receipts have told of the letters; of what a DSN repeats, nothing."""
        topic = "mail.delivery.otp.v1"
        consumer = KafkaConsumer(bootstrap_servers=self._stack.address("kafka").split(","), enable_auto_commit=False)
        try:
            parts = [TopicPartition(topic, part) for part in consumer.partitions_for_topic(topic)]
            ends = consumer.end_offsets(parts)
            consumer.assign(parts)
            consumer.seek_to_beginning(*parts)
            found = []
            deadline = time.monotonic() + WITHIN_S
            while any(consumer.position(part) < end for part, end in ends.items()) and time.monotonic() < deadline:
                for records in consumer.poll(timeout_ms=200).values():
                    found += [record.value for record in records if record.key == challenge_id.encode()]
        finally:
            consumer.close()
        told = [mail_events_pb2.MailDelivery.FromString(value) for value in found]
        return [_event(each) for each in told if each.source != mail_events_pb2.SOURCE_DSN]


def _event(told: mail_events_pb2.MailDelivery) -> Event:
    next_try_at = _instant(told.deferred.next_try_at) if told.deferred.HasField("next_try_at") else None
    at = min(_instant(told.at), _instant(told.published_at))  # to the half second that a busy relay takes for its 250
    return Event(at, told.generation, str(told.WhichOneof("fate")), next_try_at)


def _instant(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def show(story: Story, screen: Screen) -> None:
    """Show the two columns."""
    screen.step(f"What happened, and what an ordinary issuer makes of the same mails ({MINUTE.seconds} s = 1 minute)")
    screen.say(f"{'min:sec':8}{padded('Kịp', OURS)}  an ordinary issuer", Ink.FAINT)
    for row in rows_of(story, minute=MINUTE):
        clock = screen.paint(in_story(row.at, story, minute=MINUTE), Ink.STRONG)
        screen.say(f"{clock}   {padded(row.ours, OURS)}  {screen.paint(row.theirs, Ink.WARN)}".rstrip())


def _policy(file: Path) -> Path:
    """Write the packaged policy with the times of the story."""
    policy = yaml.safe_load((CHECKOUT / "services" / "otp" / "policy.yaml").read_text())
    minutes = {"life": LIFE, "max_life": MAX_LIFE, "reserve": RESERVE, "patience": PATIENCE, "slow": RESERVE}
    short = {name: f"{number * MINUTE.seconds} s" for name, number in minutes.items()}
    short |= {"challenge_life": f"{CHALLENGE_LIFE * MINUTE.seconds} s", "prompt": "1 s"}
    policy["purposes"][PURPOSE] |= short | {"cooldowns": [f"{MINUTE.seconds} s"]}
    file.write_text(yaml.safe_dump(policy, allow_unicode=True))
    return file


def play(directory: Path, screen: Screen, email: str) -> Story:
    """Start everything, tell the story, stop everything.

    Raises:
        LaptopProblem: what is wrong and what to do; nothing is left running.
    """
    missing = why_missing()
    if missing is not None:
        raise LaptopProblem(f"This demo needs a real relay. {missing}")
    lock = directory.with_suffix(".lock")
    with disk_full_told(directory), one_at_a_time(lock, screen.for_the_stack, "another demo"):
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "relay-log").mkdir(parents=True)
        screen.title("Kịp: a late mail heals itself")
        screen.step("Starting Kafka, Redis, a mailbox, a real Postfix, four services and the receipts")
        started = time.monotonic()
        with FreeRelay(directory, screen) as relay:
            screen.say(f"All is up after {time.monotonic() - started:.1f} s, on free ports, with fresh data.")
            story = LateDemo(relay.stack, screen, email).run()
            show(story, screen)
            screen.step("Stopping everything")
        screen.say(f"Logs, data and mails stay in {directory}")
        return story


class FreeRelay:
    """The stack with a Postfix between the mailer and the mailbox; a context manager."""

    def __init__(self, directory: Path, screen: Screen) -> None:
        log_file, port = directory / "relay-log" / "mail.log", FreePort()
        backoff = {name: f"PT{POSTFIX[f'{name}imal_backoff_time'] * MINUTE.seconds}S" for name in ("min", "max")}
        self.stack = Stack(
            directory,
            processes=(*PROCESSES, RECEIPTS),
            settings={
                "otp": {"OTP_POLICY_FILE": str(_policy(directory / "policy.yaml"))},
                "mailer": {"MAILER_RELAY_ADDRESS": f"127.0.0.1:{port.number}"},
                "receipts": {
                    "RECEIPTS_LOG_FILE": str(log_file),
                    "RECEIPTS_LOG_BACKOFF_LEAST": backoff["min"],
                    "RECEIPTS_LOG_BACKOFF_MOST": backoff["max"],
                },
            },
            terminal=screen.for_the_stack,
        )
        addresses = self.stack.addresses()
        self._port = port
        self._relay = PostfixRelay(
            addresses["inbox.smtp"],
            routes={"kip.example": addresses["receipts.smtp"]},
            settings={name: f"{minutes * MINUTE.seconds}s" for name, minutes in POSTFIX.items()},
            port=port.number,
            log_file=log_file,
        )

    def __enter__(self) -> FreeRelay:  # noqa: PYI034 - nobody inherits from it
        self._port.give_back()
        try:
            self._relay.start()
            self.stack.start()
        except BaseException:
            self._relay.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.stop()
        self._relay.remove()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the demo; return the exit code. A problem is told in words."""

    def told(directory: Path, screen: Screen, email: str) -> str:
        story = play(directory, screen, email)
        ours, theirs = (in_story(at, story, minute=MINUTE) for at in (story.verified_at, ordinary_end(story)))
        return f"one click, verified after {ours} min; the ordinary way: two clicks, {theirs} min"

    return run_demo("demo-late", "Let a mail come late.", told, arguments)


if __name__ == "__main__":
    sys.exit(main())
