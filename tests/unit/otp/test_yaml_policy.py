"""The policy file: what it may say, and that every problem of it is told by the name of its entry."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from services.otp.outbound.yaml_policy import read_policy
from services.otp.rules.hotline import OpeningHours
from services.otp.rules.policy import AdviceKind
from services.otp.settings import PACKAGED_POLICY
from tests.unit.otp.policy_files import ADVICE, HOTLINE, WORDS, entry_with, places_of, policy_file, problems_of, written


def test_the_packaged_policy_has_the_five_purposes_and_keeps_the_standards() -> None:
    policy = read_policy(PACKAGED_POLICY)

    assert list(policy.purposes) == ["confirm-email", "login", "password-reset", "dossier-lookup", "approval"]
    assert "beyond_standard:" not in re.sub(r"#.*", "", PACKAGED_POLICY.read_text(encoding="utf-8"))
    for name, purpose in policy.purposes.items():
        assert purpose.name == name
        assert purpose.life <= purpose.max_life <= timedelta(minutes=10)
        assert purpose.digits >= 6
        assert purpose.prompt < purpose.slow < purpose.deadline == purpose.patience - purpose.reserve
        assert purpose.patience + purpose.life <= purpose.challenge_life
        assert purpose.cooldowns == tuple(timedelta(seconds=s) for s in (30, 60, 120, 300))
        assert all(set(purpose.advice[kind]) == {"vi", "en"} for kind in AdviceKind)
        assert purpose.hotline is not None
        assert set(purpose.hotline.text) == {"vi", "en"}


def test_the_packaged_policy_shows_no_code_in_a_subject_and_says_who_has_no_account_nowhere() -> None:
    purposes = read_policy(PACKAGED_POLICY).purposes

    assert not any(purpose.code_in_subject for purpose in purposes.values())
    safe = {name for name, purpose in purposes.items() if purpose.enumeration_safe}
    assert safe == {"login", "password-reset", "dossier-lookup"}


def test_the_packaged_hotline_answers_on_working_days() -> None:
    hotline = read_policy(PACKAGED_POLICY).purposes["confirm-email"].hotline

    assert hotline is not None
    assert hotline.is_open(datetime(2026, 11, 23, 1, 0, tzinfo=UTC))  # Monday, eight o'clock in Vietnam
    assert not hotline.is_open(datetime(2026, 11, 22, 1, 0, tzinfo=UTC))


def test_durations_are_written_as_people_write_them(tmp_path: Path) -> None:
    entry = entry_with(
        life="240s", max_life="0.15 h", patience="13 min", reserve="70 s", cooldowns=["1500 ms", "0.5 min"]
    )

    purpose = read_policy(written(tmp_path, login=entry)).purposes["login"]

    assert (purpose.life, purpose.max_life) == (timedelta(minutes=4), timedelta(minutes=9))
    assert (purpose.cooldowns, purpose.deadline) == (
        (timedelta(seconds=1.5), timedelta(seconds=30)),
        timedelta(seconds=710),
    )


def test_every_field_reaches_the_purpose(tmp_path: Path) -> None:
    entry = entry_with(code_in_subject=True, enumeration_safe=False, attempts=11, alternatives=["vneid", "counter"])

    purpose = read_policy(written(tmp_path, login=entry)).purposes["login"]

    assert (purpose.digits, purpose.attempts_per_handle, purpose.attempts) == (6, 5, 11)
    assert (purpose.code_in_subject, purpose.enumeration_safe) == (True, False)
    assert (purpose.prompt, purpose.slow) == (timedelta(seconds=10), timedelta(seconds=70))
    assert (purpose.spam_after, purpose.challenge_life) == (timedelta(minutes=1), timedelta(minutes=30))
    assert (purpose.default_locale, purpose.alternatives) == ("vi", ("vneid", "counter"))
    assert purpose.advice == dict.fromkeys(AdviceKind, WORDS)
    assert purpose.hotline is not None
    assert (purpose.hotline.phone, purpose.hotline.zone) == ("1900 0000", ZoneInfo("Asia/Ho_Chi_Minh"))
    assert purpose.hotline.text == HOTLINE["text"]


def test_a_purpose_may_have_no_hotline(tmp_path: Path) -> None:
    assert read_policy(written(tmp_path, login=entry_with(hotline=None))).purposes["login"].hotline is None


HOURS = {
    "Mo-Fr 07:30-11:30": ({0, 1, 2, 3, 4}, 450, 690),
    "Sa 00:00-24:00": ({5}, 0, 1440),
    "Mo,We,Sa-Su 13:05-17:00": ({0, 2, 5, 6}, 785, 1020),
}


@pytest.mark.parametrize(("text", "days", "opens_min", "closes_min"), [(text, *row) for text, row in HOURS.items()])
def test_hours_are_days_and_one_stretch(
    tmp_path: Path, text: str, days: set[int], opens_min: int, closes_min: int
) -> None:
    hotlines = {"citizens": HOTLINE | {"open": [text]}}
    file = policy_file(tmp_path, hotlines=hotlines, purposes={"login": entry_with()})

    hotline = read_policy(file).purposes["login"].hotline

    assert hotline is not None
    expected = OpeningHours(frozenset(days), timedelta(minutes=opens_min), timedelta(minutes=closes_min))
    assert hotline.open == (expected,)


PROBLEMS: dict[str, tuple[dict[str, object], str]] = {
    "life above max_life": ({"life": "9 min", "max_life": "8 min"}, "login.max_life: must not be shorter than life"),
    "reserve as long as patience": (
        {"patience": "3 min", "reserve": "3 min", "slow": "20 s"},
        "login.reserve: must be shorter than patience",
    ),
    "reserve as long as life": ({"reserve": "5 min"}, "login.reserve: must be shorter than life"),
    "slow as long as prompt": ({"prompt": "70 s"}, "login.slow: must be longer than prompt"),
    "slow as long as the deadline": ({"slow": "14 min"}, "login.slow: must be shorter than patience - reserve"),
    "a challenge that ends before its last code": (
        {"challenge_life": "19 min"},
        "login.challenge_life: must hold patience + life",
    ),
    "a challenge that ends before its code": (
        {"patience": "2 min", "life": "2 min", "challenge_life": "9 min", "slow": "50 s"},
        "login.challenge_life: must not be shorter than max_life",
    ),
    "a number without a unit": ({"life": 5}, "login.life: must be a number with s, min or h"),
    "a unit nobody knows": ({"life": "5 days"}, "login.life: must be a number with"),
    "a negative duration": ({"spam_after": "-1 s"}, "login.spam_after: must be a number with"),
    "no duration at all": ({"spam_after": "0 s"}, "login.spam_after"),
    "a wait of more than a day": ({"spam_after": "25 h"}, "login.spam_after"),
    "a number that is too long to be one": (
        {"spam_after": "9" * 400 + " h"},
        "login.spam_after: must be a number with",
    ),
    "no pause": ({"cooldowns": []}, "login.cooldowns"),
    "nine pauses": ({"cooldowns": ["30 s"] * 9}, "login.cooldowns"),
    "pauses that shrink": ({"cooldowns": ["60 s", "30 s"]}, "login.cooldowns: must not become shorter"),
    "a pause that is none": ({"cooldowns": ["30 s", "soon"]}, "login.cooldowns.1: must be a number with"),
    "too many digits": ({"digits": 11}, "login.digits"),
    "digits in words": ({"digits": "six"}, "login.digits"),
    "no guess at all": ({"attempts": 0}, "login.attempts"),
    "a guess that is yes": ({"attempts": True}, "login.attempts"),
    "a language we do not write": ({"default_locale": "fr"}, "login.default_locale"),
    "neither yes nor no": ({"enumeration_safe": "perhaps"}, "login.enumeration_safe"),
    "a word that is missing": ({"reserve": None}, "login.reserve: Field required"),
    "a word that is misspelt": ({"cooldwon": "60 s"}, "login.cooldwon: Extra inputs"),
    "words that are nowhere": (
        {"advice": "letterbox"},
        "login.advice: no `letterbox` in advice of this file; there is",
    ),
    "a hotline that is nowhere": ({"hotline": "police"}, "login.hotline: no `police` in hotlines of this file"),
    "words in place of their name": ({"advice": ADVICE}, "login.advice: Input should be a valid string"),
}


@pytest.mark.parametrize(("changes", "told"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_problem_is_told_with_the_name_of_its_entry(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    (problem,) = problems_of(written(tmp_path, login=entry_with(**changes)))

    assert told in problem


TABLES: dict[str, tuple[dict[str, object], str]] = {
    "an advice in one language": ({"advice": {"mailbox": ADVICE | {"wait": {"vi": "Chờ."}}}}, "mailbox.wait.en: Field"),
    "an advice without words": ({"advice": {"mailbox": ADVICE | {"wait": WORDS | {"vi": ""}}}}, "mailbox.wait.vi"),
    "an advice that is missing": (
        {"advice": {"mailbox": {kind: ADVICE[kind] for kind in ("wait", "type_it")}}},
        "advice.mailbox: needs words for: check_spam, other_channel, call",
    ),
    "an advice nobody gives": ({"advice": {"mailbox": ADVICE | {"pray": WORDS}}}, "advice.mailbox.pray"),
    "words in a language we do not write": (
        {"advice": {"mailbox": ADVICE | {"wait": WORDS | {"fr": "Attendez."}}}},
        "advice.mailbox.wait.fr: Extra inputs",
    ),
    "a phone that nobody can dial": ({"hotlines": {"citizens": HOTLINE | {"phone": "call us"}}}, "citizens.phone"),
    "a phone that YAML took for a number": (
        {"hotlines": {"citizens": HOTLINE | {"phone": 19000000}}},
        "citizens.phone",
    ),
    "a zone that is none": ({"hotlines": {"citizens": HOTLINE | {"zone": "Asia/Saigonn"}}}, "is no time zone"),
    "a zone that is a folder": ({"hotlines": {"citizens": HOTLINE | {"zone": "Asia"}}}, "zone: is no time zone"),
    "a zone outside the folder": ({"hotlines": {"citizens": HOTLINE | {"zone": "../x"}}}, "zone: is no time zone"),
    "a hotline without hours": ({"hotlines": {"citizens": HOTLINE | {"open": []}}}, "citizens.open"),
    "hours in one language": (
        {"hotlines": {"citizens": HOTLINE | {"text": {"vi": "sáng"}}}},
        "text.en: Field required",
    ),
    "a table nobody knows": ({"defaults": {}}, "defaults: Extra inputs"),
}


@pytest.mark.parametrize(("tables", "told"), TABLES.values(), ids=TABLES.keys())
def test_a_problem_of_words_and_hotlines_is_told_once(tmp_path: Path, tables: dict[str, object], told: str) -> None:
    file = policy_file(tmp_path, purposes={"login": entry_with(), "reset": entry_with()}, **tables)

    (problem,) = problems_of(file)

    assert told in problem


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        ("Mo-Fr 11:30-07:30", "must open before it closes"),
        ("Mo-Fr 07:30-07:30", "must open before it closes"),
        ("Sa 22:00-24:01", "a day ends at 24:00"),
        ("Fr-Mo 07:30-11:30", "`Fr-Mo` must run from an earlier to a later day"),
        ("Mo-Tu-We 07:30-11:30", "`Mo-Tu-We` must run from an earlier to a later day"),
        ("Mo,Xx 07:30-11:30", "no such day: Xx; days are Mo Tu We Th Fr Sa Su"),
        ("mornings", "must be days and hours, such as"),
        ("Mo 7:30-11:30", "must be days and hours, such as"),
        ("Mo 07:60-11:30", "must be days and hours, such as"),
        (690, "must be days and hours, such as"),
    ],
)
def test_hours_that_are_none_are_told_by_their_place(tmp_path: Path, hours: object, told: str) -> None:
    hotlines = {"citizens": HOTLINE | {"open": ["Mo 07:30-11:30", hours]}}

    (problem,) = problems_of(policy_file(tmp_path, hotlines=hotlines, purposes={"login": entry_with()}))

    assert f"hotlines.citizens.open.1: {told}" in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"max_life": "10 min"},
        {"life": "10 min"},
        {"challenge_life": "20 min"},
        {"challenge_life": "60 min"},
        {"patience": "2 min", "life": "2 min", "challenge_life": "10 min", "slow": "50 s"},
        {"reserve": "299 s"},
        {"slow": "839 s"},
        {"prompt": "69 s"},
        {"cooldowns": ["30 s"]},
        {"cooldowns": ["30 s"] * 8},
        {"digits": 10},
        {"attempts_per_handle": 10, "attempts": 20},
        {"alternatives": []},
        {"default_locale": "en"},
        {"beyond_standard": "x" * 300, "digits": 4, "attempts_per_handle": 100, "attempts": 100},
        {"beyond_standard": "x", "life": "24 h", "max_life": "24 h", "patience": "24 h", "challenge_life": "48 h"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_what_lies_on_a_limit_is_allowed(tmp_path: Path, changes: dict[str, object]) -> None:
    assert read_policy(written(tmp_path, login=entry_with(**changes))).find("login") is not None


def test_one_wrong_field_raises_no_false_alarm_about_others(tmp_path: Path) -> None:
    problems = problems_of(written(tmp_path, login=entry_with(life="soon", patience="later", prompt="now")))

    assert [problem.split(": ")[1] for problem in problems] == [
        "purposes.login.life",
        "purposes.login.patience",
        "purposes.login.prompt",
    ]


@pytest.mark.parametrize("name", ["Login", "1st", "a" * 33, "đăng-nhập", ""], ids=ascii)
def test_a_purpose_has_a_name_that_fits_a_label(tmp_path: Path, name: str) -> None:
    ((_, place),) = places_of(written(tmp_path, **{name: entry_with()}))

    assert place == f"purposes.{name}"
