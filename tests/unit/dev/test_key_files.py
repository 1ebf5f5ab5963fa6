"""A laptop's secrets: of the agreed form, for this user's eyes only, and the same at every start."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path

from deploy.dev.key_files import EVERYTHING, KEY_IDS, write_secrets
from services.chassis.grpc_callers import read_callers


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def test_each_ring_holds_one_key_of_32_random_bytes(tmp_path: Path) -> None:
    write_secrets(tmp_path / "secrets")

    seen = set()
    for ring, kid in KEY_IDS.items():
        [key] = json.loads((tmp_path / "secrets" / f"{ring}-keys.json").read_text())["keys"]
        assert (key["kid"], key["not_before"], key["until"]) == (kid, "2026-01-01T00:00:00Z", None)
        seen.add(base64.b64decode(key["secret"], validate=True))
    assert len(seen) == len(KEY_IDS)
    assert {len(secret) for secret in seen} == {32}


def test_only_this_user_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    write_secrets(folder)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_the_callers_know_the_token_only_by_its_hash(tmp_path: Path) -> None:
    tokens = write_secrets(tmp_path)

    text = (tmp_path / "callers.json").read_text()
    assert json.loads(text) == {
        "callers": [
            {"name": "demo-portal", "token_sha256": digest(tokens.portal)} | EVERYTHING,
            {"name": "operator", "token_sha256": digest(tokens.operator), "scopes": ["unlock", "see-limits"]}
            | EVERYTHING,
        ],
    }
    assert tokens.portal not in text
    assert tokens.operator not in text
    assert tokens.portal != tokens.operator
    assert (tmp_path / "caller.token").read_text() == tokens.portal
    assert (tmp_path / "operator.token").read_text() == tokens.operator
    assert tokens.portal not in repr(tokens)
    assert tokens.operator not in repr(tokens)


def test_the_services_read_the_callers_of_a_laptop(tmp_path: Path) -> None:
    tokens = write_secrets(tmp_path)

    callers = read_callers(tmp_path / "callers.json")

    portal, operator = (callers.with_token(f"Bearer {token}") for token in (tokens.portal, tokens.operator))
    assert portal is not None
    assert operator is not None
    assert (portal.name, operator.name) == ("demo-portal", "operator")
    assert not portal.scopes
    assert operator.scopes == {"unlock", "see-limits"}
    assert all(who.may_call("/kip.otp.v1.OtpService/RequestCode") for who in (portal, operator))


def test_a_laptop_of_before_gets_its_operator_and_keeps_its_other_callers(tmp_path: Path) -> None:
    before = [{"name": "demo-portal", "token_sha256": digest("a")}, {"name": "mine", "token_sha256": digest("b")}]
    (tmp_path / "callers.json").write_text(json.dumps({"callers": before}))

    tokens = write_secrets(tmp_path)

    operator = {"name": "operator", "token_sha256": digest(tokens.operator), "scopes": ["unlock", "see-limits"]}
    operator |= EVERYTHING
    assert json.loads((tmp_path / "callers.json").read_text()) == {"callers": [*before, operator]}


def test_a_second_start_keeps_what_the_first_one_made(tmp_path: Path) -> None:
    first = write_secrets(tmp_path)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}

    second = write_secrets(tmp_path)

    assert second == first
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before
