"""Limits in the policy file: what they become, and what is told of wrong ones."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from services.otp.outbound.yaml_policy import read_policy
from services.otp.rules.quota import SYSTEM_PARTS, Dimension, GuessesBy, Limit, Reissues, ReissuesBy
from services.otp.settings import PACKAGED_POLICY
from tests.unit.otp.policy_files import LIMIT, LIMITS, entry_with, policy_file, problems_of

SECOND = {"at_once": 3, "one_each": "1 s"}


def _file(folder: Path, **tables: object) -> Path:
    return policy_file(folder, purposes={"login": entry_with()}, **tables)


def test_every_dimension_has_its_limit(tmp_path: Path) -> None:
    written = {name.value: {"at_once": 20 + n, "one_each": f"{n + 1} s"} for n, name in enumerate(Dimension)}
    guesses = {"client": SECOND, "caller": SECOND | {"at_once": 4}, "failure_ratio": 0.3}

    reissues = {"share": 0.2, "domain": SECOND, "system": SECOND | {"at_once": 4}}

    limits = read_policy(_file(tmp_path, limits=written | {"guesses": guesses, "reissues": reissues})).limits

    second = timedelta(seconds=1)
    assert limits.letters == {dimension: Limit(20 + n, second * (n + 1)) for n, dimension in enumerate(Dimension)}
    assert limits.guesses == {GuessesBy.CLIENT: Limit(3, second), GuessesBy.CALLER: Limit(4, second)}
    assert limits.failure_ratio == 0.3
    assert limits.reissues == Reissues(0.2, {ReissuesBy.DOMAIN: Limit(3, second), ReissuesBy.SYSTEM: Limit(4, second)})


def test_a_large_domain_and_the_spellings_of_a_provider_are_data(tmp_path: Path) -> None:
    boxes = [
        {"domains": ["gmail.com", "googlemail.com"], "ignores_dots": True},
        {"domains": ["yahoo.com"], "tag": "-"},
    ]

    limits = read_policy(
        _file(tmp_path, limits=LIMITS | {"domains": {"googlemail.com": SECOND}}, mailboxes=boxes)
    ).limits

    assert limits.of_domain("gmail.com") == Limit(3, timedelta(seconds=1))
    assert limits.of_domain("yahoo.com") == limits.letters[Dimension.DOMAIN]
    spelt = {domain: (folding.domain, folding.ignores_dots, folding.tag) for domain, folding in limits.foldings.items()}
    assert spelt == {
        "gmail.com": ("gmail.com", True, ""),
        "googlemail.com": ("gmail.com", True, ""),
        "yahoo.com": ("yahoo.com", False, "-"),
    }


PROBLEMS: dict[str, tuple[dict[str, object], str]] = {
    "a limit that is missing": (
        {"limits": {name: entry for name, entry in LIMITS.items() if name != "address"}},
        "limits.address: Field required",
    ),
    "a limit of nothing we count": ({"limits": LIMITS | {"device": LIMIT}}, "limits.device: Extra inputs"),
    "nothing at once": ({"limits": LIMITS | {"client": LIMIT | {"at_once": 0}}}, "limits.client.at_once"),
    "yes at once": ({"limits": LIMITS | {"client": LIMIT | {"at_once": True}}}, "limits.client.at_once"),
    "too many at once": ({"limits": LIMITS | {"client": LIMIT | {"at_once": 1_000_001}}}, "limits.client.at_once"),
    "no time": ({"limits": LIMITS | {"client": LIMIT | {"one_each": "0 s"}}}, "limits.client.one_each"),
    "a number without a unit": ({"limits": LIMITS | {"client": LIMIT | {"one_each": 5}}}, "must be a number with"),
    "a system that cannot be split": (
        {"limits": LIMITS | {"system": LIMIT | {"at_once": SYSTEM_PARTS - 1}}},
        f"limits.system: at_once must be {SYSTEM_PARTS} or more",
    ),
    "a ratio beyond everything": (
        {"limits": LIMITS | {"guesses": LIMITS["guesses"] | {"failure_ratio": 1.1}}},
        "limits.guesses.failure_ratio",
    ),
    "a ratio of nothing": (
        {"limits": LIMITS | {"guesses": LIMITS["guesses"] | {"failure_ratio": 0.0}}},
        "limits.guesses.failure_ratio",
    ),
    "more than all that came in time": (
        {"limits": LIMITS | {"reissues": LIMITS["reissues"] | {"share": 1.1}}},
        "limits.reissues.share",
    ),
    "a domain that uses up everybody's reissues": (
        {"limits": LIMITS | {"reissues": LIMITS["reissues"] | {"domain": LIMIT}}},
        "limits.reissues: at_once of system must be more than that of domain",
    ),
    "a domain in capitals": ({"limits": LIMITS | {"domains": {"Gmail.com": LIMIT}}}, "limits.domains.Gmail.com"),
    "a domain beyond ASCII": (
        {"mailboxes": [{"domains": ["a.vn", "thư.vn"]}]},
        "mailboxes.0.domains.1: String should match pattern",
    ),
    "a provider without a domain": ({"mailboxes": [{"domains": []}]}, "mailboxes.0.domains"),
    "a domain of two providers": (
        {"mailboxes": [{"domains": ["a.vn", "b.vn"]}, {"domains": ["b.vn"]}]},
        "mailboxes: a domain has one provider; there is more than one for: b.vn",
    ),
    "a tag that is a word": ({"mailboxes": [{"domains": ["a.vn"], "tag": "at"}]}, "mailboxes.0.tag"),
}


@pytest.mark.parametrize(("tables", "told"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_problem_is_told_once_with_the_name_of_its_entry(
    tmp_path: Path, tables: dict[str, object], told: str
) -> None:
    (problem,) = problems_of(_file(tmp_path, **tables))

    assert told in problem


def test_what_lies_on_a_limit_is_allowed(tmp_path: Path) -> None:
    edge = LIMITS | {
        "subject": {"at_once": 1, "one_each": "24 h"},
        "client": {"at_once": 1_000_000, "one_each": "0.001 ms"},
        "system": {"at_once": SYSTEM_PARTS, "one_each": "1 ms"},
    }

    limits = read_policy(_file(tmp_path, limits=edge)).limits

    assert limits.letters[Dimension.CLIENT] == Limit(1_000_000, timedelta(microseconds=1))


def test_the_packaged_policy_lets_a_mailbox_have_as_many_letters_as_security_md_says() -> None:
    address = read_policy(PACKAGED_POLICY).limits.letters[Dimension.ADDRESS]
    a_day = address.at_once + timedelta(hours=24) // address.one_each
    an_hour = address.at_once + timedelta(hours=1) // address.one_each

    words = " ".join((PACKAGED_POLICY.parents[2] / "SECURITY.md").read_text(encoding="utf-8").split())

    assert f"at most {an_hour} letters to one mailbox in any hour, {a_day} in any 24 hours" in words


def test_the_packaged_policy_brakes_the_machine_as_security_md_says() -> None:
    reissues = read_policy(PACKAGED_POLICY).limits.reissues
    assert reissues is not None
    domain, system = (reissues.limits[by] for by in (ReissuesBy.DOMAIN, ReissuesBy.SYSTEM))
    minute = timedelta(minutes=1)

    words = " ".join((PACKAGED_POLICY.parents[2] / "SECURITY.md").read_text(encoding="utf-8").split())

    assert (reissues.share, domain.one_each) == (0.1, minute)
    told = f"at most {domain.at_once} letters and one a minute to a domain, {system.at_once} and"
    assert (
        f"a tenth of the codes that came in time: where none do, {told} {minute // system.one_each} a minute to all"
        in words
    )
