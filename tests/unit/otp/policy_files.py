"""Policy files that tests write: a right one, what each test changes of it, and what is told of a wrong one."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.otp.outbound.yaml_policy import PolicyWrongError, read_policy
from services.otp.rules.policy import AdviceKind

WORDS = {"vi": "Vui lòng chờ.", "en": "Please wait."}
ADVICE: dict[str, Any] = {kind.value: WORDS for kind in AdviceKind}
HOTLINE: dict[str, Any] = {
    "phone": "1900 0000",
    "zone": "Asia/Ho_Chi_Minh",
    "open": ["Mo-Fr 07:30-11:30"],
    "text": {"vi": "buổi sáng", "en": "mornings"},
}
RIGHT: dict[str, Any] = {
    "digits": 6,
    "life": "5 min",
    "max_life": "10 min",
    "patience": "15 min",
    "reserve": "60 s",
    "prompt": "10 s",
    "slow": "70 s",
    "challenge_life": "30 min",
    "cooldowns": ["30 s", "60 s"],
    "attempts_per_handle": 5,
    "attempts": 10,
    "code_in_subject": False,
    "enumeration_safe": True,
    "spam_after": "1 min",
    "default_locale": "vi",
    "alternatives": ["hotline"],
    "hotline": "citizens",
    "advice": "mailbox",
}
LIMIT: dict[str, Any] = {"at_once": 20, "one_each": "1 min"}
LIMITS: dict[str, Any] = dict.fromkeys(("subject", "address", "client", "domain", "system"), LIMIT)
LIMITS["reissues"] = {"share": 0.1, "domain": LIMIT | {"at_once": 2}, "system": LIMIT}
LIMITS["guesses"] = {"client": LIMIT, "caller": LIMIT, "failure_ratio": 0.5}
WHERE = re.compile(r"policy\.yaml:(\d+): (.*?): (.*)")


def policy_file(folder: Path, **tables: object) -> Path:
    """Write a file whose words, hotlines and limits are right, unless a table is given."""
    content = {"advice": {"mailbox": ADVICE}, "hotlines": {"citizens": HOTLINE}, "limits": LIMITS} | tables
    text = yaml.safe_dump(copy.deepcopy(content), allow_unicode=True, sort_keys=False)
    return written_text(folder, text)


def written_text(folder: Path, text: str) -> Path:
    """Write a file as it is."""
    file = folder / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def written(folder: Path, **purposes: object) -> Path:
    """Write a file of these purposes."""
    return policy_file(folder, purposes=purposes)


def entry_with(**changes: object) -> dict[str, Any]:
    """Return a right purpose with changes; `None` leaves a field out."""
    return {name: value for name, value in {**copy.deepcopy(RIGHT), **changes}.items() if value is not None}


def problems_of(file: Path) -> list[str]:
    """Return the problems that are told of a wrong file."""
    with pytest.raises(PolicyWrongError) as wrong:
        read_policy(file)
    head, *problems = str(wrong.value).split("\n  ")
    assert head == f"{file} is wrong:"
    assert all(WHERE.fullmatch(problem) for problem in problems)
    return problems


def places_of(file: Path) -> list[tuple[int, str]]:
    """Return every problem as its line and the name of its entry."""
    found = [WHERE.fullmatch(problem) for problem in problems_of(file)]
    return [(int(match.group(1)), match.group(2)) for match in found if match]
