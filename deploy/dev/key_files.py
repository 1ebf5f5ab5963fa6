"""The secrets of a laptop: key rings and two callers' tokens, made at random on first use, kept with what they open.

Only this user may read them. Whoever deletes the folder also makes what was sealed with them unreadable.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KEY_IDS = {"code": "c1", "handle": "h1", "index": "i1", "seal-code": "s1", "seal-notice": "n1", "receipt": "r1"}
KEY_BYTES = 32
NOT_BEFORE = "2026-01-01T00:00:00Z"  # before any laptop's clock
CALLER, OPERATOR = "demo-portal", "operator"
OPERATORS_SCOPES = ["unlock", "see-limits"]
EVERYTHING = {"rpcs": ["kip.otp.v1.OtpService/*", "kip.dossier.v1.DossierService/*"], "purposes": ["*"]}
"""What the callers of a laptop may do; in production each has what it needs."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the callers of a laptop show."""

    portal: str = field(repr=False)
    """Of `CALLER`, who has no scope."""
    operator: str = field(repr=False)
    """Of `OPERATOR`, who has `OPERATORS_SCOPES`."""


def write_secrets(folder: Path) -> Tokens:
    """Write the key rings and the callers that are not there yet; return the callers' tokens."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for ring, kid in KEY_IDS.items():
        _write_once(folder / f"{ring}-keys.json", _key_ring(kid))
    tokens = Tokens(_token(folder / "caller.token"), _token(folder / "operator.token"))
    callers = [caller_entry(CALLER, tokens.portal), caller_entry(OPERATOR, tokens.operator, OPERATORS_SCOPES)]
    _add_callers(folder / "callers.json", callers)
    return tokens


def caller_entry(name: str, token: str, scopes: Sequence[str] = ()) -> dict[str, object]:
    """Return what the callers file says of a caller."""
    entry: dict[str, object] = {"name": name, "token_sha256": hashlib.sha256(token.encode()).hexdigest()}
    return entry | EVERYTHING | ({"scopes": list(scopes)} if scopes else {})


def _key_ring(kid: str) -> str:
    secret = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    key: Mapping[str, str | None] = {"kid": kid, "secret": secret, "not_before": NOT_BEFORE, "until": None}
    return json.dumps({"keys": [key]})


def _token(file: Path) -> str:
    _write_once(file, secrets.token_urlsafe(KEY_BYTES))
    return file.read_text()


def _add_callers(file: Path, entries: Sequence[Mapping[str, object]]) -> None:
    """Add those whose names the file lacks: an older laptop knows fewer, and its user may have added others."""
    known = json.loads(file.read_text())["callers"] if file.exists() else []
    names = {entry["name"] for entry in known}
    if missing := [entry for entry in entries if entry["name"] not in names]:
        _write(file, json.dumps({"callers": [*known, *missing]}))


def _write_once(file: Path, text: str) -> None:
    if not file.exists():
        _write(file, text)


def _write(file: Path, text: str) -> None:
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    fresh.replace(file)
