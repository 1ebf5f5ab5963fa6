"""The same request twice: a claim remembers for a day what a caller's idempotency key was used for.

A claim holds no part of the request: a digest of caller and key to find it by, a digest of the body to tell "again"
from "another one", and the id of the dossier it made. The body's digest is salted with the first one and is not keyed:
whoever can read it reads the address beside it, in the same database, for longer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

KEPT_FOR = timedelta(hours=24)  # longer than any caller retries


@dataclass(frozen=True, slots=True)
class Claim:
    """What one use of a key was for."""

    key: str = field(repr=False)
    """Digest of caller and idempotency key, hex."""
    fingerprint: str = field(repr=False)
    """Digest of the request's body, hex."""
    expires_at: datetime


def claim_of(caller: str, idempotency_key: str, body: tuple[str, ...], now: datetime) -> Claim:
    """Return the claim of a request made now; `body` is every field that another request would have otherwise."""
    key = _digest("kip-dossier-claim-v1", caller, idempotency_key)
    return Claim(key, _digest("kip-dossier-body-v1", key, *body), now + KEPT_FOR)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()  # JSON: no two lists of strings look the same
