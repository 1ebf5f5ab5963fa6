"""`python -m deploy.dev.demo --to lan@example.vn`: one code, from the click to the mailbox and back, as you watch.

Starts the whole stack on free ports with fresh data in `.kip/demo`, plays a portal that asks for a code, the citizen
who reads the mail and types it, and an office that moves a dossier. Then it shows what happened when, and stops
everything. All that it shows comes from outside the services: gRPC answers, the mailbox, the records on Kafka.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from kip.otp.v1 import otp_service_pb2 as codes

from deploy.dev.cache_folder import one_at_a_time
from deploy.dev.demo_command import run_demo
from deploy.dev.demo_portal import Portal
from deploy.dev.demo_screen import Ink, Screen
from deploy.dev.demo_timeline import moments_of
from deploy.dev.inbox.client import InboxClient, InboxError, Mail
from deploy.dev.problem import LaptopProblem, disk_full_told
from deploy.dev.stack import Stack

CONTEXT = "Nộp hồ sơ cấp lại sổ bảo hiểm xã hội"
BUSY_RELAY = {"stage": "mail", "action": "delay", "delay_s": 1.5, "times": 1}  # so that there is time to press again
ARRIVES_WITHIN_S = 30.0
LOOK_EVERY_S = 0.05
CODE = re.compile(r"^Mã xác nhận của bạn: (\d+)$", re.MULTILINE)
BETWEEN_LANGUAGES = "\n\n─"
ZONE = ZoneInfo("Asia/Ho_Chi_Minh")  # as the letters print it


class DemoFailed(LaptopProblem):
    """The story broke off; the text says where and what to look at."""


@dataclass(frozen=True, slots=True)
class Verified:
    """How the story of the code went."""

    asked: datetime
    answered: datetime
    took_s: float
    mail: Mail
    handle: str


class Demo:
    """Tells the story on a stack that runs.

    Args:
        stack: running.
        screen: who watches.
        email: as it was typed.
    """

    def __init__(self, stack: Stack, screen: Screen, email: str) -> None:
        self._stack = stack
        self._screen = screen
        self._email = email
        self._page = f"http://{stack.address('inbox.http')}"
        self._inbox = InboxClient(self._page)

    def run(self) -> float:
        """Tell it all; return the seconds from the request to the accepted code.

        Raises:
            LaptopProblem: a service refused, or something did not come in time.
        """
        to_otp, to_dossier = self._stack.address("otp.grpc"), self._stack.address("dossier.grpc")
        with Portal(to_otp, to_dossier, self._stack.caller_token) as portal:
            verified = self._send_and_verify_code(portal)
            self._move_dossier(portal)
            self._screen.step("What happened to the code, and when")
            challenge = self._handed_over(portal, verified.handle)
            moments = moments_of(
                verified.asked, verified.answered, verified.mail, challenge, self._stack.address("kafka")
            )
            self._screen.timeline(moments, ZONE)
        return verified.took_s

    def _send_and_verify_code(self, portal: Portal) -> Verified:
        screen = self._screen
        screen.step(f"A portal asks otp for a code for {self._email}")
        self._inbox.set_behaviour(BUSY_RELAY)
        asked, started = datetime.now(UTC), time.monotonic()
        answer = portal.request_code(self._email, CONTEXT)
        answered = datetime.now(UTC)
        again_pressed = portal.request_code(self._email, CONTEXT)
        mail = self._next_mail(after=0)
        code = self._code_in(mail)
        accepted = portal.verify(answer.handle, code)
        took_s = time.monotonic() - started
        again = portal.verify(answer.handle, code)

        reference = answer.challenge.letters[0].reference
        screen.say(f"The page says: look for the mail marked {screen.paint(reference, Ink.STRONG)}.")
        self._say_where(answer.challenge)
        screen.step("The relay is busy, and the citizen presses again on another page")
        self._say_joined(again_pressed)
        screen.step("The mail is in the mailbox")
        self._show(mail, age_s=(mail.received_at - asked).total_seconds())
        screen.step("The citizen types the code")
        self._say_outcome(code, accepted)
        self._say_outcome(code, again, note="   once more, and it opens nothing a second time")
        if accepted.WhichOneof("outcome") != "accepted" or again.WhichOneof("outcome") != "used":
            raise DemoFailed(f"The code was not taken once and only once. See {self._logs('otp')}.")
        return Verified(asked, answered, took_s, mail, answer.handle)

    def _say_where(self, challenge: codes.Challenge) -> None:
        letter = challenge.letters[0]
        where = f"Letters in front of it: {letter.place}" if letter.HasField("place") else "Its place is not known yet"
        if letter.HasField("expected_at"):
            where += f". It should leave by {letter.expected_at.ToDatetime(UTC).astimezone(ZONE):%H:%M:%S}"
        self._screen.say(f"{where}.")
        self._screen.say(challenge.advice.text["en"], Ink.FAINT)

    def _say_joined(self, answer: codes.RequestCodeResponse) -> None:
        if not answer.joined:
            raise DemoFailed(f"The second request did not join the letter that waits. See {self._logs('otp')}.")
        joined = self._screen.paint("joined", Ink.GOOD)
        reference = answer.challenge.letters[0].reference
        self._screen.say(f"{joined}: the same letter {reference}, the same place, and no second mail.")
        self._say_where(answer.challenge)

    def _move_dossier(self, portal: Portal) -> None:
        screen, seen = self._screen, self._inbox.newest_id()
        screen.step("An office takes in a dossier, and each step is mailed")
        opened = portal.open_dossier(self._email)
        first = self._next_mail(after=seen)
        portal.accept(opened)
        second = self._next_mail(after=first.id)
        screen.say(f"Dossier {opened.number}")
        for mail in (first, second):
            screen.say(f"✉  {mail.subject}")

    def _show(self, mail: Mail, age_s: float) -> None:
        head = [f"{name + ':':9}{mail.headers.get(name, '')}" for name in ("From", "To", "Subject")]
        head.append(f"{'Age:':9}{age_s:.2f} s when it arrived")
        text, _, rest = (mail.text or "").partition(BETWEEN_LANGUAGES)
        self._screen.box(head, text)
        if rest:
            self._screen.say("The same in English follows below, and both once more in html.", Ink.FAINT)
        self._screen.say(f"See it in a browser while this runs: {self._page}/   (make up keeps it running)", Ink.FAINT)

    def _say_outcome(self, code: str, answer: codes.VerifyCodeResponse, note: str = "") -> None:
        outcome = str(answer.WhichOneof("outcome"))
        ink = Ink.GOOD if outcome == "accepted" else Ink.WARN
        self._screen.say(f"{code}  →  {self._screen.paint(outcome, ink)}{self._screen.paint(note, Ink.FAINT)}")

    def _next_mail(self, after: int) -> Mail:
        try:
            return self._inbox.wait_for_mail(after=after, timeout_s=ARRIVES_WITHIN_S)
        except (InboxError, OSError) as error:
            raise DemoFailed(
                f"No mail arrived within {ARRIVES_WITHIN_S:g} s. See {self._logs('mailer')}, then try again: make demo"
            ) from error

    def _code_in(self, mail: Mail) -> str:
        found = CODE.search(mail.text or "")
        if found is None:
            raise DemoFailed(f"The mail holds no code. It is kept below {self._stack.directory / 'inbox'}.")
        return found[1]

    def _handed_over(self, portal: Portal, handle: str) -> codes.Challenge:
        """Wait until otp has heard of the hand-over, which may come after the mail."""
        deadline = time.monotonic() + ARRIVES_WITHIN_S
        while not (challenge := portal.look(handle)).letters[0].HasField("handed_over_at"):
            if time.monotonic() > deadline:
                raise DemoFailed(f"otp has not heard of the hand-over. See {self._logs('otp')}, then: make demo")
            time.sleep(LOOK_EVERY_S)
        return challenge

    def _logs(self, name: str) -> Path:
        return self._stack.directory / "logs" / f"{name}.log"


def play(directory: Path, screen: Screen, email: str) -> float:
    """Start everything, tell the story, stop everything; return the seconds from the request to the accepted code.

    Raises:
        LaptopProblem: what is wrong and what to do; nothing is left running.
    """
    lock = directory.with_suffix(".lock")
    with disk_full_told(directory), one_at_a_time(lock, screen.for_the_stack, "another demo"):
        shutil.rmtree(directory, ignore_errors=True)
        screen.title("Kịp: one code, from the click to the mailbox and back")
        screen.step("Starting Kafka, Redis, a mailbox and four services")
        started = time.monotonic()
        with Stack(directory, terminal=screen.for_the_stack) as stack:
            screen.say(f"All is up after {time.monotonic() - started:.1f} s, on free ports, with fresh data.")
            took_s = Demo(stack, screen, email).run()
            screen.step("Stopping everything")
        screen.say(f"Logs, data and mails stay in {directory}")
        return took_s


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the demo; return the exit code. A problem is told in words."""

    def told(directory: Path, screen: Screen, email: str) -> str:
        return f"code delivered and verified in {play(directory, screen, email):.2f} s"

    return run_demo("demo", "Send one code and verify it.", told, arguments)


if __name__ == "__main__":
    sys.exit(main())
