"""The secrets of a laptop: key rings and a caller's token, made at random on first use, kept with the data they open.

Only this user may read them. Whoever deletes the folder also makes what was sealed with them unreadable.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

KEY_IDS = {"code": "c1", "handle": "h1", "index": "i1", "seal-code": "s1", "seal-notice": "n1"}
KEY_BYTES = 32
NOT_BEFORE = "2026-01-01T00:00:00Z"  # before any laptop's clock
CALLER = "demo-portal"


def write_secrets(folder: Path) -> str:
    """Write the key rings and the callers that are not there yet; return the caller's token."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for ring, kid in KEY_IDS.items():
        _write_once(folder / f"{ring}-keys.json", _key_ring(kid))
    token_file = folder / "caller.token"
    _write_once(token_file, secrets.token_urlsafe(KEY_BYTES))
    token = token_file.read_text()
    _write_once(folder / "callers.json", json.dumps({"callers": [_caller(token)]}))
    return token


def _key_ring(kid: str) -> str:
    secret = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    key: Mapping[str, str | None] = {"kid": kid, "secret": secret, "not_before": NOT_BEFORE, "until": None}
    return json.dumps({"keys": [key]})


def _caller(token: str) -> dict[str, str]:
    return {"name": CALLER, "token_sha256": hashlib.sha256(token.encode()).hexdigest()}


def _write_once(file: Path, text: str) -> None:
    if file.exists():
        return
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    fresh.replace(file)
