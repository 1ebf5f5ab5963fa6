"""Which dead letters a person means, and what each says of itself."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint

import pytest

from deploy.dead_letters import __main__ as command
from deploy.dead_letters.buried import Buried, Choice, Done, Place, Problem, instant_of
from services.chassis.dead_letter import DeadLetter
from tests.quality.source_code import ROOT

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
CODES, NOTICES = "otp.code-requested.v1", "notice.requested.v1"


def buried(
    offset: int,
    *,
    topic: str = CODES,
    kind: str = "seal-broken",
    reason: str = "it does not open",
    at: datetime | None = NOON,
    done: Done | None = None,
    headers: Sequence[tuple[str, bytes]] = (),
) -> Buried:
    letter = DeadLetter(topic, 0, offset, "g", at, kind, reason)
    return Buried(Place(f"{topic}.dead", 0, offset), b"k", b"v", headers, NOON + timedelta(hours=1), letter, done)


def offsets(letters: Sequence[Buried]) -> list[int]:
    return [each.place.offset for each in letters]


def test_a_name_is_read_as_it_is_written() -> None:
    place = Place("otp.code-requested.v1.dead", 0, 17)

    assert str(place) == "otp.code-requested.v1.dead@0:17"
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize("text", ["", "topic", "topic@0", "topic:0@1", "topic@0:x", "@0:1", "topic@0:1 "])
def test_what_is_no_name_says_where_names_are(text: str) -> None:
    with pytest.raises(Problem, match="kip-dead list"):
        Place.parse(text)


def test_all_is_what_nobody_is_done_with() -> None:
    letters = [buried(1), buried(2, done=Done.REDRIVEN), buried(3, done=Done.DROPPED), buried(4)]

    assert offsets(Choice().of(letters)) == [1, 4]


def test_what_is_named_is_meant_whatever_was_done_with_it_and_once() -> None:
    letters = [buried(1), buried(2, done=Done.DROPPED), buried(3)]
    places = [letters[1].place, letters[0].place, letters[1].place]

    assert offsets(Choice(places=places).of(letters)) == [1, 2]


def test_a_name_of_nothing_is_a_problem() -> None:
    with pytest.raises(Problem, match=r"otp\.code-requested\.v1\.dead@0:9"):
        Choice(places=[buried(9).place]).of([buried(1)])


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (Choice(topic=NOTICES), [2]),
        (Choice(topic=f"{NOTICES}.dead"), [2]),
        (Choice(topic="notice"), []),
        (Choice(kind="undecodable"), [3]),
        (Choice(reason="OPEN"), [1, 2]),
        (Choice(reason="OPEN", topic=CODES), [1]),
        (Choice(since=NOON), [1, 2, 3]),
        (Choice(since=NOON + timedelta(seconds=1)), []),
        (Choice(since=NOON, kind="undecodable", topic=NOTICES), []),
    ],
)
def test_each_word_narrows(choice: Choice, left: list[int]) -> None:
    letters = [buried(1), buried(2, topic=NOTICES), buried(3, kind="undecodable", reason="not an order")]

    assert offsets(choice.of(letters)) == left


def test_one_of_an_older_release_died_when_it_was_written_and_does_not_say_of_what() -> None:
    old = buried(1, kind="", reason="", at=None)

    assert old.died_at == NOON + timedelta(hours=1)
    assert (old.kind, old.reason) == ("not-said", "it does not say why")
    assert offsets(Choice(kind="not-said").of([old])) == [1]


@pytest.mark.parametrize(
    ("header", "has_expired"),
    [
        (b"2026-11-27T12:00:00Z", True),
        (b"2026-11-27T19:00:00+07:00", True),
        (b"2026-11-27T12:00:00.001Z", False),
        (b"2026-11-27T12:00:00", False),
        (b"soon", False),
        (b"\xff", False),
    ],
)
def test_it_expires_when_its_record_says_so(header: bytes, *, has_expired: bool) -> None:
    assert buried(1, headers=[("expirytime", header)]).has_expired(NOON) is has_expired


def test_what_does_not_say_when_never_expires() -> None:
    assert not buried(1).has_expired(datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("30s", NOON - timedelta(seconds=30)),
        ("5m", NOON - timedelta(minutes=5)),
        ("2h", NOON - timedelta(hours=2)),
        ("3d", NOON - timedelta(days=3)),
        ("2026-11-27T10:00:00Z", NOON - timedelta(hours=2)),
    ],
)
def test_a_time_is_so_long_ago_or_an_instant(text: str, instant: datetime) -> None:
    assert instant_of(text, NOON) == instant


@pytest.mark.parametrize("text", ["", "yesterday", "5", "2026-11-27T10:00:00", "-3d"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        instant_of(text, NOON)


@pytest.mark.parametrize(
    "words",
    [
        ["redrive"],
        ["redrive", "--topic", CODES],
        ["drop"],
        ["redrive", "a.dead@0:1", "--all"],
        ["drop", "a.dead@0:1", "--kind", "undecodable"],
        ["redrive", "--kind", "no-such-kind"],
        ["drop", "--all", "--even-expired"],
        ["list", "--since", "yesterday"],
        ["show", "something"],
        [],
    ],
    ids=" ".join,
)
def test_words_that_make_no_sense_are_refused_before_anything_is_asked(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--brokers", "127.0.0.1:1", *words])

    assert ended.value.code == 2
    assert "kip-dead" in capsys.readouterr().err


def test_the_project_installs_the_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert EntryPoint("kip-dead", scripts["kip-dead"], "console_scripts").load() is command.script
