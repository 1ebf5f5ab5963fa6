"""A laptop's secrets: of the agreed form, for this user's eyes only, and the same at every start."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path

from deploy.dev.key_files import KEY_IDS, write_secrets


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
    token = write_secrets(tmp_path)

    text = (tmp_path / "callers.json").read_text()
    assert json.loads(text) == {
        "callers": [{"name": "demo-portal", "token_sha256": hashlib.sha256(token.encode()).hexdigest()}],
    }
    assert token not in text
    assert (tmp_path / "caller.token").read_text() == token


def test_a_second_start_keeps_what_the_first_one_made(tmp_path: Path) -> None:
    first = write_secrets(tmp_path)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}

    second = write_secrets(tmp_path)

    assert second == first
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before
