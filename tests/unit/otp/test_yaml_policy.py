"""The policy file: what it may say, and that every problem of it is told at once, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.otp.outbound.yaml_policy import PolicyWrongError, read_policy
from services.otp.rules.policy import AdviceKind
from services.otp.settings import PACKAGED_POLICY

Change = Callable[[dict[str, Any]], object]

RIGHT: dict[str, Any] = {
    "digits": 6,
    "life": "5 min",
    "max_life": "10 min",
    "challenge_life": "30 min",
    "patience": "15 min",
    "reserve": "60 s",
    "cooldown": "60 s",
    "attempts_per_handle": 5,
    "attempts": 10,
    "spam_after": "1 min",
    "default_locale": "vi",
    "alternatives": ["hotline"],
    "advice": {kind.value: {"vi": "Vui lòng chờ.", "en": "Please wait."} for kind in AdviceKind},
}


def _written(folder: Path, **purposes: object) -> Path:
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump({"purposes": purposes}, allow_unicode=True), encoding="utf-8")
    return file


def _entry(**changes: object) -> dict[str, Any]:
    return {name: value for name, value in {**copy.deepcopy(RIGHT), **changes}.items() if value is not None}


def _problems(file: Path) -> list[str]:
    with pytest.raises(PolicyWrongError) as wrong:
        read_policy(file)
    head, *problems = str(wrong.value).split("\n  ")
    assert str(file) in head
    return problems


def test_the_packaged_policy_loads_and_keeps_the_standards() -> None:
    policy = read_policy(PACKAGED_POLICY)

    assert policy.purposes
    for name, purpose in policy.purposes.items():
        assert purpose.name == name
        assert purpose.life <= purpose.max_life <= timedelta(minutes=10)
        assert purpose.digits >= 6
        assert purpose.deadline == purpose.patience - purpose.reserve > timedelta(0)
        assert purpose.patience + purpose.life <= purpose.challenge_life
        assert all(set(purpose.advice[kind]) == {"vi", "en"} for kind in AdviceKind)
    assert policy.find("no such purpose") is None


def test_durations_are_written_as_people_write_them(tmp_path: Path) -> None:
    entry = _entry(life="240s", max_life="0.15 h", patience="13 min", reserve="70 s", cooldown="1500 ms")

    purpose = read_policy(_written(tmp_path, login=entry)).purposes["login"]

    assert (purpose.life, purpose.max_life) == (timedelta(minutes=4), timedelta(minutes=9))
    assert (purpose.cooldown, purpose.deadline) == (timedelta(seconds=1.5), timedelta(seconds=710))


PROBLEMS: dict[str, tuple[dict[str, object], str]] = {
    "max_life above ten minutes": ({"max_life": "601 s"}, "login.max_life"),
    "life above max_life": ({"life": "9 min", "max_life": "8 min"}, "login.max_life: Value error, must not be shorter"),
    "reserve as long as patience": ({"reserve": "15 min"}, "login.reserve: Value error, must be shorter than patience"),
    "a challenge that ends before its last code": (
        {"challenge_life": "19 min"},
        "login.challenge_life: Value error, must hold patience + life",
    ),
    "a number without a unit": ({"life": 5}, "login.life: Value error, must be a number with s, min or h"),
    "a unit nobody knows": ({"life": "5 days"}, "login.life"),
    "a negative duration": ({"cooldown": "-1 s"}, "login.cooldown"),
    "no duration at all": ({"cooldown": "0 s"}, "login.cooldown"),
    "too few digits": ({"digits": 5}, "login.digits"),
    "too many digits": ({"digits": 11}, "login.digits"),
    "more guesses than a handle may have": ({"attempts_per_handle": 11}, "login.attempts_per_handle"),
    "no guess at all": ({"attempts": 0}, "login.attempts"),
    "a language we do not write": ({"default_locale": "fr"}, "login.default_locale"),
    "a word that is missing": ({"reserve": None}, "login.reserve: Field required"),
    "a word that is misspelt": ({"cooldwon": "60 s"}, "login.cooldwon: Extra inputs"),
    "an advice in one language": (
        {"advice": {**RIGHT["advice"], "wait": {"vi": "Chờ."}}},
        "login.advice: Value error, needs vi and en for: wait",
    ),
    "an advice without words": ({"advice": {**RIGHT["advice"], "wait": {"vi": "", "en": "x"}}}, "login.advice.wait.vi"),
    "an advice that is missing": ({"advice": {"wait": {"vi": "a", "en": "b"}}}, "check_spam, type_it, other_channel"),
}


@pytest.mark.parametrize(("changes", "told"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_problem_is_told_with_the_name_of_its_entry(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    (problem,) = _problems(_written(tmp_path, login=_entry(**changes)))

    assert told in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"max_life": "10 min"},
        {"life": "10 min"},
        {"challenge_life": "20 min"},
        {"reserve": "899 s"},
        {"digits": 10},
        {"attempts_per_handle": 10, "attempts": 100},
        {"alternatives": []},
        {"default_locale": "en"},
    ],
    ids=str,
)
def test_what_lies_on_a_limit_is_allowed(tmp_path: Path, changes: dict[str, object]) -> None:
    assert read_policy(_written(tmp_path, login=_entry(**changes))).find("login") is not None


def test_every_problem_of_every_purpose_is_told_at_once(tmp_path: Path) -> None:
    broken = _entry(digits=4, max_life="11 min", reserve="15 min", challenge_life="6 min", cooldown="soon", x=1)
    broken["advice"] = {}

    problems = _problems(_written(tmp_path, login=broken, reset=_entry(life=None)))

    assert [problem.partition(":")[0] for problem in problems] == [
        "purposes.login.digits",
        "purposes.login.reserve",
        "purposes.login.max_life",
        "purposes.login.challenge_life",
        "purposes.login.cooldown",
        "purposes.login.advice",
        "purposes.login.x",
        "purposes.reset.life",
    ]


def test_one_wrong_field_raises_no_false_alarm_about_others(tmp_path: Path) -> None:
    problems = _problems(_written(tmp_path, login=_entry(life="soon", patience="later")))

    assert [problem.partition(":")[0] for problem in problems] == ["purposes.login.patience", "purposes.login.life"]


@pytest.mark.parametrize("name", ["Login", "1st", "a" * 33, "đăng-nhập", ""], ids=ascii)
def test_a_purpose_has_a_name_that_fits_a_label(tmp_path: Path, name: str) -> None:
    assert name in "".join(_problems(_written(tmp_path, **{name: _entry()})))


@pytest.mark.parametrize("text", ["", "purposes: {}", "purposes: []", "[]", "5", "purposes: {a: {}}\nmore: 1"], ids=str)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)

    assert _problems(file)


def test_what_is_no_yaml_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("purposes:\n  login: [\n")

    with pytest.raises(PolicyWrongError, match=r"(?s)is not YAML: .*line 3"):
        read_policy(file)


def test_a_file_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(PolicyWrongError, match=r"policy\.yaml cannot be read: No such file"):
        read_policy(tmp_path / "policy.yaml")
