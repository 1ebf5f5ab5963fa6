"""A stack whose relay is a real Postfix, with a mailbox provider behind it that defers and refuses as it is told.

    otp, mailer ── SMTP ──► Postfix ── SMTP ──► the demo inbox, as the MX of everybody
                     receipts ◄── its log, its notifications

All processes are real, and codes live for seconds: see `PURPOSES`. Codes are learnt from the mailbox only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Self

import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2
from kip.otp.v1 import otp_service_pb2

from deploy.dev.inbox.client import InboxClient, Mail
from deploy.dev.ports import FreePort
from deploy.dev.postfix_relay import PostfixRelay
from deploy.dev.process_table import PROCESSES, RECEIPTS
from deploy.dev.python_process import CHECKOUT
from deploy.dev.stack import Stack
from tests.conditions import wait_until
from tests.e2e.dumps import kafka_records
from tests.e2e.metrics_page import page_of, total
from tests.e2e.portal import Portal

NAME, IMPATIENT = "confirm-email-late", "confirm-email-impatient"
LIFE_S, MAX_LIFE_S = 12, 16
LATE = {"life": f"{LIFE_S} s", "max_life": f"{MAX_LIFE_S} s", "reserve": "2 s"}
PURPOSES = {NAME: LATE, IMPATIENT: LATE | {"patience": "12 s", "prompt": "1 s", "slow": "5 s"}}
"""What differs from `confirm-email`. Only what must be dropped soon is impatient: with a short deadline a queue that
is short as well is longer than people wait, and nobody is let in."""
BY_ITSELF = 8
"""Letters that the machine may make to a domain where no code comes in time; each ten codes in time allow one more."""
REISSUES = {
    "share": 0.1,
    "domain": {"at_once": BY_ITSELF, "one_each": "1 h"},
    "system": {"at_once": 10 * BY_ITSELF, "one_each": "1 h"},
}
RETURN_PATH = "khong-tra-loi@kip.example"
WITHIN_S = 60.0  # for what takes a few seconds: a machine may be busy


class LateStack:
    """A context manager: everything runs inside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_file = directory / "relay-log" / "mail.log"
        self.log_file.parent.mkdir()
        self._relay_port = FreePort()
        policy = directory / "policy.yaml"
        policy.write_text(yaml.safe_dump(_policy(), allow_unicode=True))
        self.stack = Stack(
            directory,
            processes=(*PROCESSES, RECEIPTS),
            settings={
                "otp": {"OTP_POLICY_FILE": str(policy)},
                "mailer": {"MAILER_RELAY_ADDRESS": f"127.0.0.1:{self._relay_port.number}"},
                "receipts": {
                    "RECEIPTS_LOG_FILE": str(self.log_file),
                    "RECEIPTS_LOG_BACKOFF_LEAST": "PT2S",
                    "RECEIPTS_LOG_BACKOFF_MOST": "PT4S",
                },
            },
        )
        addresses = self.stack.addresses()
        self.relay = PostfixRelay(
            addresses["inbox.smtp"],
            routes={"kip.example": addresses["receipts.smtp"]},
            settings={"maximal_queue_lifetime": "10m", "bounce_queue_lifetime": "10m"},
            port=self._relay_port.number,
            log_file=self.log_file,
        )
        self._rules: dict[str, Mapping[str, object]] = {}
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        self._relay_port.give_back()
        self.relay.start()
        self.stack.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.stop()
        self.relay.remove()

    @property
    def inbox(self) -> InboxClient:
        """Return the mailbox."""
        return InboxClient(f"http://{self.stack.address('inbox.http')}")

    @contextmanager
    def portal(self, otp_address: str = "") -> Iterator[Portal]:
        """Yield a caller."""
        to_otp, to_dossier = otp_address or self.stack.address("otp.grpc"), self.stack.address("dossier.grpc")
        with Portal(to_otp, to_dossier, self.stack.caller_token) as portal:
            yield portal

    # The MX.

    def answer(self, address: str, code: int, text: str) -> None:
        """Let the MX answer so to every mail for this address, in which `*` stands for anything."""
        self._rule(address, {"stage": "rcpt", "action": "reply", "to": address, "code": code, "text": text})

    def accept(self, address: str) -> None:
        """Let the MX take mails for this address again."""
        self._rule(address, None)

    def _rule(self, address: str, rule: Mapping[str, object] | None) -> None:
        with self._turn:
            self._rules.pop(address, None)
            if rule is not None:
                self._rules[address] = rule
            self.inbox.set_behaviour(*self._rules.values())

    # What is there.

    def mails(self, address: str) -> list[Mail]:
        """Return the mails to an address, oldest first."""
        inbox = self.inbox
        return [inbox.mail(mail.id) for mail in reversed(inbox.messages(to=address))]

    def wait_for_mails(self, address: str, number: int) -> list[Mail]:
        """Wait for so many mails to an address."""
        return (
            wait_until(
                lambda: found if len(found := self.mails(address)) >= number else None,
                within_s=WITHIN_S,
                what=f"{number} mails to {address}",
            )
            or []
        )

    def log_text(self) -> str:
        """Return the relay's log, whatever its files are called."""
        files = sorted(self.log_file.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        return "".join(file.read_text() for file in files)

    def ignored(self, source: str, reason: str) -> float:
        """Return how many receipts had no effect for that reason."""
        page = page_of(self.stack.address("receipts.http"))
        return total(page, "mailer_receipts_ignored_total", source=source, reason=reason)

    def held_back(self, by: str) -> float:
        """Return how often the machine was not let make a letter, because of that."""
        return total(page_of(self.stack.address("otp.http")), "otp_reissues_held_back_total", by=by)

    def letters_to(self, address: str) -> set[str]:
        """Return the queue ids of all letters that the relay tried to deliver to what ends so."""
        return {line.split(": ")[1] for line in self.log_text().splitlines() if f"{address}>, relay=" in line}

    def deliveries(self) -> list[tuple[str, mail_events_pb2.MailDelivery]]:
        """Return every delivery event that was published, with the id of its envelope."""
        events = []
        for record in kafka_records(self.stack.address("kafka")):
            if record.topic == "mail.delivery.otp.v1":
                event_id = dict(record.headers)["ce_id"].decode()
                events.append((event_id, mail_events_pb2.MailDelivery.FromString(record.value)))
        return events

    # What somebody may write to the return path.

    def envelope_id(self, challenge_id: str, generation: int, *, secret: bytes | None = None) -> str:
        """Return what the mailer gives a relay to name a letter by; with another secret, a forged one."""
        (key,) = json.loads((self.directory / "secrets" / "receipt-keys.json").read_text())["keys"]
        parts = [b"kip-envelope-v1", b"otp", challenge_id.encode(), str(generation).encode()]
        prefixed = b"".join(len(part).to_bytes(4) + part for part in parts)
        mac = hmac.digest(secret or b64decode(key["secret"]), prefixed, hashlib.sha256)[:10].hex()
        return f"otp.{challenge_id}.{generation}.{key['kid']}.{mac}"

    def write_to_return_path(self, *mails: bytes) -> None:
        """Send mails there as a relay does."""
        host, _, port = self.stack.address("receipts.smtp").rpartition(":")
        with smtplib.SMTP(host, int(port), timeout=30) as client:
            for mail in mails:
                client.sendmail("<>", [RETURN_PATH], mail)

    def write_to_log(self, *lines: str) -> None:
        """Add lines to the relay's log."""
        with self.log_file.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


def references(challenge: otp_service_pb2.Challenge) -> list[str]:
    """Return the references of a challenge's letters, oldest first."""
    return [letter.reference for letter in reversed(challenge.letters)]


def causes(challenge: otp_service_pb2.Challenge) -> Sequence[str]:
    """Return why each letter was made, oldest first."""
    names = [otp_service_pb2.LetterCause.Name(letter.cause) for letter in reversed(challenge.letters)]
    return [name.removeprefix("LETTER_CAUSE_").lower() for name in names]


def wait_until_past(instant: Timestamp, *, by_s: float = 0.3) -> None:
    """Wait until a time that otp told lies behind."""
    at = instant.ToDatetime(UTC).timestamp() + by_s
    wait_until(lambda: time.time() > at, within_s=WITHIN_S, what="time passes")


def _policy() -> object:
    policy = yaml.safe_load((CHECKOUT / "services" / "otp" / "policy.yaml").read_text())
    purposes = policy["purposes"]
    ours = {name: purposes["confirm-email"] | numbers for name, numbers in PURPOSES.items()}
    return policy | {"purposes": purposes | ours, "limits": policy["limits"] | {"reissues": REISSUES}}
