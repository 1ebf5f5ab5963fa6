"""The policy file and the standards: what needs a reason, and what no reason lifts."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.otp.outbound.yaml_policy import read_policy
from tests.unit.otp.policy_files import entry_with, problems_of, written

BEYOND: dict[str, tuple[dict[str, object], str]] = {
    "digits": ({"digits": 5}, "NIST SP 800-63B-4 §3.1.3.2"),
    "max_life": ({"max_life": "601 s"}, "OWASP ASVS 5.0 6.5.5"),
    "attempts_per_handle": ({"attempts_per_handle": 11}, "RFC 4226 §7.3"),
    "attempts": ({"attempts": 21}, "NIST SP 800-63B-4 §3.2.2"),
    "challenge_life": ({"challenge_life": "61 min"}, "OWASP ASVS 5.0 6.6.2"),
}
each_cap = pytest.mark.parametrize(
    ("field", "changes", "source"), [(field, *row) for field, row in BEYOND.items()], ids=BEYOND.keys()
)


@each_cap
def test_what_is_beyond_a_standard_is_refused_with_the_source_and_the_way_to_lift_it(
    tmp_path: Path, field: str, changes: dict[str, object], source: str
) -> None:
    (problem,) = problems_of(written(tmp_path, login=entry_with(**changes)))

    assert f"login.{field}: " in problem
    assert source in problem
    assert 'beyond_standard: "<reason>"' in problem


@each_cap
def test_an_entry_with_a_reason_may_go_beyond_a_standard_and_lifts_it_for_no_other(
    tmp_path: Path, field: str, changes: dict[str, object], source: str
) -> None:
    del source
    excused = entry_with(beyond_standard="Letters of this office come by a slow relay.", **changes)

    assert read_policy(written(tmp_path, login=excused)).find("login") is not None
    (problem,) = problems_of(written(tmp_path, login=excused, reset=entry_with(**changes)))
    assert f"reset.{field}: " in problem


def test_a_life_beyond_the_standard_is_told_with_its_own_name(tmp_path: Path) -> None:
    entry = entry_with(life="11 min", max_life="12 min")

    problems = problems_of(written(tmp_path, login=entry))

    assert [problem.split(": ")[1] for problem in problems] == ["purposes.login.life", "purposes.login.max_life"]


@pytest.mark.parametrize("reason", ["", "x" * 301, 5])
def test_a_reason_is_words_and_a_wrong_one_raises_no_false_alarm(tmp_path: Path, reason: object) -> None:
    (problem,) = problems_of(written(tmp_path, login=entry_with(beyond_standard=reason, digits=4)))

    assert "login.beyond_standard" in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"digits": 3},
        {"max_life": "1441 min", "challenge_life": "48 h"},
        {"challenge_life": "2881 min"},
        {"attempts_per_handle": 101},
        {"attempts": 101},
    ],
    ids=str,
)
def test_no_reason_lifts_the_hard_limits(tmp_path: Path, changes: dict[str, object]) -> None:
    (problem,) = problems_of(written(tmp_path, login=entry_with(beyond_standard="We want to.", **changes)))

    assert "Input should be" in problem


@pytest.mark.parametrize("purpose", ["password-reset", "approval"])
@pytest.mark.parametrize("reason", [None, "Our citizens have no lock screens."])
def test_no_reason_puts_a_code_that_opens_or_signs_into_a_subject(
    tmp_path: Path, purpose: str, reason: str | None
) -> None:
    entries = {
        purpose: entry_with(code_in_subject=True, beyond_standard=reason),
        "login": entry_with(code_in_subject=True),
    }

    (problem,) = problems_of(written(tmp_path, **entries))

    assert f"purposes.{purpose}.code_in_subject: a code of {purpose} never stands in a subject" in problem
