"""Who may call: the callers file, and a token against it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from services.chassis.errors import Kind
from services.chassis.grpc_callers import Callers, NotAllowed, caller, calling_as, demand_scope, read_callers

TOKEN = "made-up-token-of-the-portal-0001"
OTHER = "made-up-token-of-the-office-0002"


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


CALLERS = Callers({"portal": digest(TOKEN), "office": digest(OTHER)})


def callers_file(folder: Path, *entries: object) -> Path:
    file = folder / "callers.json"
    file.write_text(json.dumps({"callers": entries}))
    return file


def entry(name: str, token: str) -> dict[str, str]:
    return {"name": name, "token_sha256": digest(token).hex()}


@pytest.mark.parametrize(("token", "name"), [(TOKEN, "portal"), (OTHER, "office")])
def test_a_caller_is_known_by_its_token(token: str, name: str) -> None:
    assert CALLERS.named(f"Bearer {token}") == name


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer ",
        TOKEN,
        f"bearer {TOKEN}",
        f"Basic {TOKEN}",
        f"Bearer  {TOKEN}",
        f"Bearer {TOKEN} ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}\n",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {digest(TOKEN).hex()}",
        "Bearer " + "x" * 10_000,
    ],
)
def test_anything_else_is_nobody(authorization: str) -> None:
    assert CALLERS.named(authorization) is None


def test_the_hash_of_nothing_opens_nothing() -> None:
    assert Callers({"nobody": digest("")}).named("") is None


def test_without_callers_nobody_may_call() -> None:
    assert Callers({}).named(f"Bearer {TOKEN}") is None


def test_callers_are_read_from_their_file(tmp_path: Path) -> None:
    file = callers_file(tmp_path, entry("portal", TOKEN), entry("office", OTHER))

    assert read_callers(file) == CALLERS


def test_a_caller_has_the_scopes_of_its_entry_and_no_others(tmp_path: Path) -> None:
    office = {**entry("office", OTHER), "scopes": ["unlock", "lift"]}
    none = {**entry("desk", "made-up-token-of-the-desk-00003"), "scopes": []}

    read = read_callers(callers_file(tmp_path, entry("portal", TOKEN), office, none))

    assert read.scopes == {"office": {"unlock", "lift"}}


@pytest.mark.parametrize("scopes", [None, "unlock", 7, True, {"unlock": True}, ["unlock", 7], [["unlock"]], [None]])
def test_scopes_that_are_no_list_of_strings_are_refused_and_named(tmp_path: Path, scopes: object) -> None:
    file = callers_file(tmp_path, entry("portal", TOKEN), {**entry("office", OTHER), "scopes": scopes})

    with pytest.raises(ValueError, match=r"callers\.json: the scopes of office are not a list of strings"):
        read_callers(file)


def test_a_call_has_its_caller_while_it_lasts() -> None:
    with calling_as("portal"):
        with calling_as("office"):
            assert caller() == "office"
        assert caller() == "portal"
    with pytest.raises(LookupError):
        caller()


def test_a_scope_that_the_caller_has_lets_the_call_go_on() -> None:
    with calling_as("operator", {"unlock"}):
        demand_scope("unlock")


@pytest.mark.parametrize("scopes", [(), ("unloc",), ("unlock-all",), ("UNLOCK",)])
def test_a_scope_that_the_caller_lacks_is_named_to_it_in_both_languages(scopes: tuple[str, ...]) -> None:
    with calling_as("portal", scopes), pytest.raises(NotAllowed) as refused:
        demand_scope("unlock")

    error = refused.value
    assert (error.kind, error.reason, error.metadata) == (Kind.FORBIDDEN, "NOT_ALLOWED", {"scope": "unlock"})
    assert "unlock" in error.words.vi
    assert "unlock" in error.words.en


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.json cannot be read: No such file"):
        read_callers(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"callers": 7}',
        '{"callers": ["portal"]}',
        '{"callers": [{"name": "portal"}]}',
        '{"callers": [{"token_sha256": "00"}]}',
        '{"callers": [{"name": "portal", "token_sha256": 7}]}',
        '{"callers": [{"name": "portal", "token_sha256": "not hex"}]}',
        '{"callers": [{"name": "portal", "token_sha256": "00ff"}]}',
        json.dumps({"callers": [{"name": "portal", "token_sha256": TOKEN}]}),
        json.dumps({"callers": [entry("portal", TOKEN), entry("portal", OTHER)]}),
    ],
)
def test_a_file_that_names_no_callers_is_refused_and_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "callers.json"
    file.write_text(text)

    with pytest.raises(ValueError, match=r"callers\.json") as error:
        read_callers(file)

    assert TOKEN not in str(error.value)
