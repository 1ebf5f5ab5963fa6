"""The alerts about what is heard of letters after the relay took them: each fires in a live run, and is silent before.

The relay's log is a file that the test writes; nobody delivers anything.
"""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from kip.otp.v1 import otp_service_pb2

from tests.e2e.alarms import HURRY, RESERVE_S, Alarmed, alarmed_stack
from tests.e2e.drip import Drip
from tests.e2e.late_stack import wait_until_past
from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen
from tests.servers.relay_reports import report

pytestmark = pytest.mark.timeout(300)

LIFE_S = RESERVE_S + 2
ENOUGH = 30  # an alert wants more than 20 in ten minutes
NOTICED_S = 60.0 + 300 / HURRY  # a log is silent for 60 s, which is no duration, and then for five minutes in a hurry
RETURN_PATH = "khong-tra-loi@kip.example"
REISSUES = {
    "share": 0.1,
    "domain": {"at_once": 1, "one_each": "1 h"},
    "system": {"at_once": 2, "one_each": "1 h"},
}


@pytest.fixture(scope="module")
def relay_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("relay") / "mail.log"
    log.touch()
    return log


@pytest.fixture(scope="module")
def alarmed(relay_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alarmed]:
    """A watched stack with receipts, whose codes live for seconds."""
    with alarmed_stack(
        tmp_path_factory.mktemp("alarmed"),
        promises={"life": f"{LIFE_S} s", "max_life": f"{LIFE_S} s"},
        reissues=REISSUES,
        relay_log=relay_log,
    ) as alarmed:
        alarmed.wait_until_over("KipServiceAbsent", "OtpLagwatchBlind")
        yield alarmed


def write_to_return_path(alarmed: Alarmed, mail: bytes, times: int) -> set[int]:
    """Send a mail there so often; return the codes of the answers."""
    host, _, port = alarmed.stack.address("receipts.smtp").rpartition(":")
    answers = set()
    with smtplib.SMTP(host, int(port), timeout=30) as client:
        for _ in range(times):
            try:
                client.sendmail("<>", [RETURN_PATH], mail)
                answers.add(250)
            except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as refused:
                answers.add(refused.smtp_code)
    return answers


def test_many_reports_that_nobody_signed_so_are_told(alarmed: Alarmed) -> None:
    assert "MailerReceiptsForged" not in alarmed.told()
    forged = report(envelope_id=f"otp.c00{'0' * 26}.1.r1.{'0' * 20}")

    assert write_to_return_path(alarmed, forged, ENOUGH) == {250}

    assert alarmed.counted("receipts", "mailer_receipts_ignored_total", reason="forged") == ENOUGH
    alarmed.wait_until_told("MailerReceiptsForged")


def test_mails_to_the_return_path_that_are_turned_away_are_told(alarmed: Alarmed) -> None:
    assert "MailerReturnsRefused" not in alarmed.told()

    assert write_to_return_path(alarmed, b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" * 50_000, ENOUGH) == {552}

    alarmed.wait_until_told("MailerReturnsRefused", reason="too_large")


def test_late_letters_that_the_brake_holds_back_are_told(alarmed: Alarmed) -> None:
    assert "OtpReissuesBraked" not in alarmed.told()
    people = [Citizen(name, domain="slow.example") for name in ("lan", "minh")]

    with alarmed.running.portal() as portal:
        handles = [portal.request(citizen).handle for citizen in people]
        codes = [code_in(mail_to(alarmed.running.inbox, citizen.email)) for citizen in people]
        left = [portal.wait_for_fate(handle, "HANDED_OVER").letters[0] for handle in handles]
        wait_until_past(max((letter.good_until for letter in left), key=Timestamp.ToNanoseconds))
        replaced = portal.verify(handles[0], codes[0]).expired
        held_back = [portal.verify(handles[1], codes[1]).expired for _ in range(ENOUGH)]
        stalled = portal.look(handles[1]).stalled

    assert replaced.reference
    assert {expired.reference for expired in held_back} == {""}
    assert stalled == otp_service_pb2.STALL_REASON_CHANNEL_SLOW
    assert alarmed.counted("otp", "otp_reissues_held_back_total", by="domain") == ENOUGH
    alarmed.wait_until_told("OtpReissuesBraked", by="domain")


def test_a_log_in_which_nothing_stands_while_letters_leave_is_told_and_so_is_a_follower_that_is_gone(
    alarmed: Alarmed, relay_log: Path
) -> None:
    assert "MailerReceiptsDeaf" not in alarmed.told()

    with alarmed.running.portal() as portal, Drip(portal, 1.0):
        alarmed.wait_until_told("MailerReceiptsDeaf", within_s=2 * NOTICED_S)
        with relay_log.open("a") as log:
            log.write("Nov 27 12:00:00 relay postfix/smtpd[1]: connect from mailer[192.0.2.1]\n")
        alarmed.wait_until_over("MailerReceiptsDeaf")

    with alarmed.without("receipts"):
        alarmed.wait_until_told("MailerReceiptsDeaf", within_s=2 * NOTICED_S)
        assert "KipServiceAbsent" not in alarmed.told()
    alarmed.wait_until_over("MailerReceiptsDeaf")


def test_they_end_by_themselves(alarmed: Alarmed) -> None:
    alarmed.wait_until_over("MailerReceiptsForged", "MailerReturnsRefused", "OtpReissuesBraked", "MailerReceiptsDeaf")
