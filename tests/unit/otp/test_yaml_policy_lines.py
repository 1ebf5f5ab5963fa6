"""The policy file, line by line: every problem at once, each where it stands, and what YAML itself would swallow."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.otp.outbound.yaml_policy import PolicyWrongError, read_policy
from tests.unit.otp.policy_files import entry_with, places_of, problems_of, written, written_text

BROKEN = """\
advice:
  mailbox: &words
    wait: {vi: Chờ., en: Wait.}
    type_it: {vi: Gõ., en: Type.}
    check_spam: {vi: Xem.}
    other_channel: {vi: Gọi., en: Phone.}
    call: {vi: Gọi., en: Phone.}
hotlines:
  citizens:
    phone: "1900 0000"
    zone: Asia/Ho_Chi_Minh
    open:
      - Mo-Fr 07:30-11:30
      - Sa 11:30-07:30
    text: {vi: Sáng, en: Mornings}
purposes:
  login:
    digits: 4
    life: 5 min
    max_life: 11 min
    patience: 15 min
    reserve: 15 min
    prompt: 10 s
    slow: 60 s
    challenge_life: 6 min
    cooldowns: [30 s, soon]
    life: 6 min
    attempts_per_handle: 5
    attempts: 10
    code_in_subject: false
    enumeration_safe: true
    spam_after: 60 s
    default_locale: vi
    alternatives: [hotline]
    hotline: police
    advice: mailbox
    x: 1
  approval:
    code_in_subject: true
limits:
  subject: {at_once: 0, one_each: 5 min}
  address: {at_once: 10, one_each: soon}
  client: {at_once: 10}
  domain: {at_once: 10, one_each: 1 s}
  domains:
    GMAIL.com: {at_once: 10, one_each: 1 s}
  system: {at_once: 15, one_each: 1 s}
  guesses: {client: {at_once: 1, one_each: 1 s}, caller: {at_once: 1, one_each: 1 s}, failure_ratio: half}
  reissues: {share: 2.0, domain: {at_once: 1, one_each: 1 s}, system: {at_once: 2, one_each: 1 s}}
mailboxes:
  - domains: []
"""


def test_every_problem_of_the_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    places = places_of(written_text(tmp_path, BROKEN))

    # What is missing has the line of the entry that lacks it.
    missing = [place for place in places if place[1].startswith("purposes.approval.") and place[0] == 38]
    assert len(missing) == 16
    assert [place for place in places if place not in missing] == [
        (5, "advice.mailbox.check_spam.en"),
        (14, "hotlines.citizens.open.1"),
        (18, "purposes.login.digits"),
        (20, "purposes.login.max_life"),
        (22, "purposes.login.reserve"),
        (25, "purposes.login.challenge_life"),
        (26, "purposes.login.cooldowns.1"),
        (27, "purposes.login.life"),
        (35, "purposes.login.hotline"),
        (37, "purposes.login.x"),
        (39, "purposes.approval.code_in_subject"),
        (41, "limits.subject.at_once"),
        (42, "limits.address.one_each"),
        (43, "limits.client.one_each"),
        (46, "limits.domains.GMAIL.com"),
        (47, "limits.system"),
        (48, "limits.guesses.failure_ratio"),
        (49, "limits.reissues.share"),
        (51, "mailboxes.0.domains"),
    ]


def test_a_line_of_its_own_is_told_for_each_place_of_a_list(tmp_path: Path) -> None:
    text = written(tmp_path, login=entry_with(cooldowns=["30 s", "60 s", "soon"])).read_text(encoding="utf-8")
    line = text.splitlines().index("    - soon") + 1

    assert places_of(written_text(tmp_path, text)) == [(line, "purposes.login.cooldowns.2")]


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    text = written(tmp_path, login=entry_with()).read_text(encoding="utf-8")
    first = text.splitlines().index("    digits: 6") + 1
    again = text.count("\n") + 1

    (problem,) = problems_of(written_text(tmp_path, text + "    digits: 6\n"))

    assert problem == (
        f"policy.yaml:{again}: purposes.login.digits: stands twice, first on line {first}; keep one of them"
    )


def test_a_key_that_stands_three_times_is_told_twice_and_each_time_with_the_first_line(tmp_path: Path) -> None:
    text = written(tmp_path, login=entry_with()).read_text(encoding="utf-8")

    problems = problems_of(written_text(tmp_path, f"{text}purposes: {{}}\npurposes: {{}}\n"))

    first = text.splitlines().index("purposes:") + 1
    assert sum(f"purposes: stands twice, first on line {first};" in problem for problem in problems) == 2


def test_a_key_that_stands_twice_in_a_list_is_found_too(tmp_path: Path) -> None:
    text = written(tmp_path, login=entry_with()).read_text(encoding="utf-8")

    places = places_of(written_text(tmp_path, f"{text}extra: [1, {{a: 1, a: 2}}]\n"))

    assert [name for _, name in places] == ["extra.1.a", "extra"]


def test_a_shared_value_is_looked_at_where_it_stands_and_a_merge_is_no_key_twice(tmp_path: Path) -> None:
    merged = "  reset:\n    <<: *shared\n    digits: 8\n  approval:\n    <<: *shared\n    digits: 3\n"
    text = written(tmp_path, login=entry_with()).read_text(encoding="utf-8").replace("  login:", "  login: &shared")
    right, wrong = text + merged.replace("digits: 3", "digits: 9"), text + merged
    line = wrong.splitlines().index("    digits: 3") + 1

    policy = read_policy(written_text(tmp_path, right))

    assert [purpose.digits for purpose in policy.purposes.values()] == [6, 8, 9]
    assert places_of(written_text(tmp_path, wrong)) == [(line, "purposes.approval.digits")]


SHAPES = [
    "",
    "purposes: {}",
    "purposes: []",
    "[]",
    "5",
    "purposes: {a: {}}\nmore: 1",
    "purposes: {a: 1}",
    "? [a]\n: 1",
    "&a [*a]",
    "purposes: &a {b: *a}",
]


@pytest.mark.parametrize("text", SHAPES, ids=ascii)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    assert problems_of(written_text(tmp_path, text))


NO_YAML = {
    "a list that does not end": ("purposes:\n  login: [\n", 3, "while parsing a flow node"),
    "two documents": ("a: 1\n---\nb: 1\n", 2, "expected a single document"),
    "a tab": ("purposes:\n\tlogin: 1\n", 2, "found character '\\t'"),
    "a character that YAML forbids": ("purposes:\n  login: \x07\n", 2, "special characters are not allowed"),
    "an alias of nothing": ("purposes:\n  login: *nothing\n", 2, "undefined alias"),
    "a tag that makes objects": (
        "purposes:\n  login: !!python/name:os.system\n",
        2,
        "could not determine a constructor",
    ),
    "a tag that does not fit": ("purposes:\n  login:\n    digits: !!int six\n", 3, "`six` is no int"),
    "a yes that is none": ("purposes:\n  login: !!bool perhaps\n", 2, "`perhaps` is no bool"),
    "a date that is none": ("purposes:\n  login: !!timestamp soon\n", 2, "`soon` is no timestamp"),
    "a date that is not in the calendar": (
        "purposes:\n  - 2026-02-31\n",
        2,
        "`2026-02-31` is no timestamp; put it in quotes",
    ),
    "a merge of what is no mapping": ("purposes:\n  login:\n    <<: 5\n", 3, "expected a mapping"),
}


@pytest.mark.parametrize(("text", "line", "told"), NO_YAML.values(), ids=NO_YAML.keys())
def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path, text: str, line: int, told: str) -> None:
    (problem,) = problems_of(written_text(tmp_path, text))

    assert problem.startswith(f"policy.yaml:{line}: is not YAML: ")
    assert told in problem


def test_what_is_no_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"purposes:\n  login:\n    # \xd0\n")

    assert problems_of(file) == ["policy.yaml:3: is not YAML: text must be UTF-8"]


def test_a_file_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(PolicyWrongError, match=r"policy\.yaml cannot be read: No such file"):
        read_policy(tmp_path / "policy.yaml")
