"""The service as a process: what it stores, announces and hears, whatever is killed or away meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest
from kip.dossier.v1 import dossier_service_pb2 as pb
from kip.mailer.v1 import mail_events_pb2, notice_events_pb2

from deploy.dev.server_process import ServerFailed
from services.chassis.keyring import Key, Keyring, Seal
from tests.conditions import wait_until
from tests.fakes.dossier import NOON
from tests.integration.dossier.conftest import Broker
from tests.integration.dossier.dossier_process import NOBODY, SECRET, Caller, DossierProcess, notice_ids
from tests.integration.dossier.mailer_hands import MailerHands

REJOIN_S = 40  # a group waits 10 s for a member that was killed, and two processors are shared with other tests
RING = Keyring([Key("k1", SECRET, NOON - timedelta(days=1))])


@pytest.fixture(scope="module")
def running(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DossierProcess]:
    """One service that several tests talk to and none kills."""
    process = DossierProcess(tmp_path_factory.mktemp("dossier"), kafka.address)
    process.start()
    yield process
    process.kill()


def _fate(process: DossierProcess, dossier_id: str) -> pb.NoticeFate.ValueType:
    with process.called() as portal:
        return portal.get(dossier_id).steps[0].notice.fate


def test_each_step_asks_the_mailer_for_a_letter_that_only_the_ring_opens(
    running: DossierProcess, mailer: MailerHands
) -> None:
    with running.called() as portal:
        opened = portal.open("letters")
        advanced = portal.advance(opened, pb.DOSSIER_STATE_ACCEPTED, "Hẹn trả ngày 3/12")
    mailer.wait_for(set(notice_ids(advanced)))

    wishes = {wish.event.notice_id: wish for wish in mailer.wishes()}
    first, second = (wishes[notice_id] for notice_id in notice_ids(advanced))
    assert (first.event.letter, second.event.letter) == ("dossier-opened", "dossier-advanced")
    assert second.envelope.expires == second.envelope.time + timedelta(hours=48)
    plain = _unsealed(second.event)
    assert (plain.email, plain.name) == ("lan@example.vn", "Nguyễn Thị Lan")
    assert plain.parameters["dossier_number"] == opened.number
    assert plain.parameters["remark"] == "Hẹn trả ngày 3/12"


def _unsealed(event: notice_events_pb2.NoticeRequested) -> notice_events_pb2.SealedNotice:
    seal = Seal(event.sealed.kid, event.sealed.nonce, event.sealed.ciphertext)
    about = ("kip.mailer.v1.SealedNotice", event.notice_id, "1")
    return notice_events_pb2.SealedNotice.FromString(RING.open(seal, about=about))


def test_a_silent_move_asks_for_no_letter(running: DossierProcess, mailer: MailerHands) -> None:
    with running.called() as portal:
        accepted = portal.advance(portal.open("silent"), pb.DOSSIER_STATE_ACCEPTED)
        silent = portal.advance(accepted, pb.DOSSIER_STATE_IN_PROGRESS)
        loud = portal.advance(silent, pb.DOSSIER_STATE_DONE)
    mailer.wait_for(set(notice_ids(loud)))

    assert [step.HasField("notice") for step in loud.steps] == [True, True, False, True]
    assert set(mailer.asked_for()) == set(notice_ids(loud))


def test_the_fate_of_a_letter_is_shown_at_its_step(running: DossierProcess, mailer: MailerHands) -> None:
    with running.called() as portal:
        opened = portal.open("fate")
    (notice_id,) = notice_ids(opened)
    assert _fate(running, opened.dossier_id) == pb.NOTICE_FATE_QUEUED

    mailer.tell("asked-for-by-the-portal", delivered=mail_events_pb2.Delivered())
    mailer.tell(notice_id, delivered=mail_events_pb2.Delivered(status="2.0.0"))
    delivered = pb.NOTICE_FATE_DELIVERED
    wait_until(lambda: _fate(running, opened.dossier_id) == delivered, within_s=REJOIN_S, what="the delivery")

    mailer.tell(notice_id, handed_over=mail_events_pb2.HandedOver(route="a"))  # late
    wait_until(  # any number: what is read again after a rebalance says nothing new either
        lambda: running.value("dossier_deliveries_ignored_total", reason="nothing_new"),
        within_s=REJOIN_S,
        what="the late event to be taken in",
    )
    assert _fate(running, opened.dossier_id) == delivered


def test_what_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on(
    running: DossierProcess, mailer: MailerHands
) -> None:
    with running.called() as portal:
        opened = portal.open("poison")
    (notice_id,) = notice_ids(opened)

    mailer.write(notice_id.encode(), b"\xff\xff\xff")
    mailer.tell(notice_id, bounced=mail_events_pb2.Bounced(status="5.1.1"))

    wait_until(
        lambda: _fate(running, opened.dossier_id) == pb.NOTICE_FATE_BOUNCED, within_s=REJOIN_S, what="the bounce"
    )
    reasons = wait_until(mailer.dead_reasons, within_s=REJOIN_S, what="the dead letter")
    assert reasons == ["the value is no kip.mailer.v1.MailDelivery"]


def test_nothing_personal_and_no_token_is_logged(running: DossierProcess, mailer: MailerHands) -> None:
    with running.called() as portal:
        opened = portal.open("log")
        portal.advance(opened, pb.DOSSIER_STATE_ACCEPTED, "Chào chị Lan")
        with pytest.raises(grpc.RpcError):
            portal.advance(opened, pb.DOSSIER_STATE_DONE, "Chào chị Lan")
    mailer.wait_for(set(notice_ids(opened)))

    assert "serving" in running.log_text()
    for secret in ("lan@example.vn", "Nguyễn", "Lan", "citizen-7", "made-up-token", "made-up-secret"):
        assert secret not in running.log_text()


def test_killed_between_commit_and_announcement_no_notice_is_lost(
    kafka: Broker, mailer: MailerHands, tmp_path: Path
) -> None:
    process = DossierProcess(tmp_path, NOBODY)
    process.start()
    with process.called() as portal:
        opened = [portal.open(f"key {number}") for number in range(20)]
        waiting = {portal.advance(one, pb.DOSSIER_STATE_ACCEPTED).dossier_id for one in opened}
    wait_until(lambda: process.value("dossier_outbox_messages") == 40, what="all of them wait")

    process.kill()
    assert mailer.asked_for() == []
    process.brokers = kafka.address
    process.start()

    with process.called() as portal:
        expected = [notice_id for dossier_id in waiting for notice_id in notice_ids(portal.get(dossier_id))]
    mailer.wait_for(set(expected))
    wait_until(process.outbox_is_empty, what="the outbox is empty")
    assert len(expected) == 40
    process.kill()


def test_killed_in_full_work_again_and_again_no_notice_of_an_answer_is_lost(
    dossier: DossierProcess, mailer: MailerHands
) -> None:
    answered: list[pb.Dossier] = []

    for round_number in range(1, 4):
        dossier.start()
        with ThreadPoolExecutor(8) as offices, dossier.called() as portal:
            for number in range(200):
                offices.submit(_open_if_alive, portal, f"round {round_number} key {number}", answered)
            wait_until(partial(_has, answered, 40 * round_number), within_s=30, what="calls to be answered")
            dossier.kill()
    dossier.start()

    mailer.wait_for({notice_id for one in answered for notice_id in notice_ids(one)})
    with dossier.called() as portal:
        assert portal.get(answered[0].dossier_id).number == answered[0].number


def _open_if_alive(portal: Caller, key: str, answered: list[pb.Dossier]) -> None:
    with suppress(grpc.RpcError):  # killed in mid-call: nothing was promised
        answered.append(portal.open(key))


def _has(answered: list[pb.Dossier], count: int) -> bool:
    return len(answered) >= count


def test_two_processes_over_one_archive_share_the_work_and_lose_nothing(
    kafka: Broker, mailer: MailerHands, tmp_path: Path
) -> None:
    twins = [DossierProcess(tmp_path, kafka.address, name=name) for name in ("one", "two")]
    for twin in twins:
        twin.start()

    expected: set[str] = set()
    with twins[0].called() as one, twins[1].called() as two:
        for number in range(30):
            opened = one.open(f"key {number}")
            expected.update(notice_ids(two.advance(opened, pb.DOSSIER_STATE_ACCEPTED)))
    mailer.wait_for(expected)

    for twin in twins:
        wait_until(twin.outbox_is_empty, what="the outbox is empty")
        assert twin.terminate() == 0
    assert set(mailer.asked_for()) == expected
    assert len(expected) == 60


def test_while_kafka_is_away_the_service_is_ready_and_answers(tmp_path: Path) -> None:
    process = DossierProcess(tmp_path, NOBODY)
    process.start()

    with process.called() as portal:
        opened = portal.open("key")
        seen = portal.get(opened.dossier_id)

    assert seen == opened
    assert seen.steps[0].notice.fate == pb.NOTICE_FATE_QUEUED
    assert process.is_ready()
    assert process.terminate() == 0


def test_after_sigterm_it_ends_with_zero_and_nothing_it_promised_is_lost(
    dossier: DossierProcess, mailer: MailerHands, tmp_path: Path
) -> None:
    dossier.start()
    wait_until(lambda: "partitions_assigned" in dossier.log_text(), within_s=REJOIN_S, what="the inbox to listen")
    with dossier.called() as portal:
        promised = {notice_id for number in range(10) for notice_id in notice_ids(portal.open(f"key {number}"))}

    exit_code = dossier.terminate(grace_s=20)

    assert exit_code == 0
    left = _rows(tmp_path, "SELECT notice_id FROM outbox")
    mailer.wait_for(promised - left, within_s=5)


def test_sigterm_as_soon_as_it_serves_ends_with_zero(dossier: DossierProcess) -> None:
    dossier.start()  # the inbox has not joined its group yet

    assert dossier.terminate(grace_s=20) == 0


def _rows(folder: Path, query: str) -> set[str]:
    archive = sqlite3.connect(folder / "dossier.db")
    rows = {row[0] for row in archive.execute(query)}
    archive.close()
    return rows


def test_sigterm_while_it_still_waits_for_its_database_ends_with_zero(tmp_path: Path) -> None:
    nowhere = {"DOSSIER_DATABASE_URL": f"postgresql://nobody@{NOBODY}/none"}
    process = DossierProcess(tmp_path, NOBODY, settings=nowhere, up_at="/healthz")
    process.start()
    wait_until(lambda: "the archive (DOSSIER_DATABASE_URL)" in process.log_text(), what="it waits")
    assert process.page("/readyz") == (503, "not ready: archive\n")

    assert process.terminate() == 0


def test_a_start_that_cannot_work_says_why_and_ends_with_two(tmp_path: Path) -> None:
    process = DossierProcess(tmp_path, NOBODY, settings={"DOSSIER_PROCEDURES_DIR": "."})

    with pytest.raises(ServerFailed, match="exit code 2"):
        process.start()

    assert "Cannot start: procedures are wrong" in process.log_text()
    assert "Traceback" not in process.log_text()


def test_an_archive_of_a_newer_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    process = DossierProcess(tmp_path, NOBODY)
    process.start()
    process.terminate()
    archive = sqlite3.connect(tmp_path / "dossier.db", isolation_level=None)
    archive.execute("UPDATE alembic_version SET version_num = '9999'")
    archive.close()

    with pytest.raises(ServerFailed, match="exit code 1"):
        process.start()

    assert "Cannot start: The archive's schema is at revision 9999" in process.log_text()
    assert "Traceback" not in process.log_text()
