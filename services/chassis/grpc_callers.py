"""Who may call, and what else they may do: the callers file, the caller of the current call, scopes.

Deny by default: a call needs `authorization: Bearer <token>`, and the token's SHA-256 stands in the callers file.
Tokens are random, so an unsalted hash keeps them; comparison is constant-time over all callers. Only health may be
asked without one. What only a few may do needs a scope as well, and a caller has those of its entry: none, unless it
names some.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from services.chassis.errors import Kind, ServiceError, Words

TOKEN_PATTERN = re.compile(r"Bearer ([A-Za-z0-9._~+/=-]{16,512})")  # RFC 6750 §2.1, neither short nor endless


class NotAuthenticated(ServiceError):
    """No credentials, or none that we know."""

    kind = Kind.UNAUTHENTICATED
    reason = "NOT_AUTHENTICATED"


class NotAllowed(ServiceError):
    """The caller lacks the scope that this call needs."""

    kind = Kind.FORBIDDEN
    reason = "NOT_ALLOWED"


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may call: name → SHA-256 of their token; and name → scopes, of those who have any."""

    token_sha256: Mapping[str, bytes]
    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def named(self, authorization: str) -> str | None:
        """Return the caller who holds this token, or none; takes the same time for any token."""
        match = TOKEN_PATTERN.fullmatch(authorization)
        offered = hashlib.sha256((match.group(1) if match else "").encode()).digest()
        found = None
        for name, expected in self.token_sha256.items():
            if hmac.compare_digest(offered, expected):
                found = name
        return found if match else None


def read_callers(path: Path) -> Callers:
    """Read the callers file: JSON `{"callers": [{"name", "token_sha256" (hex), "scopes" (may be absent)}]}`.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        entries = json.loads(path.read_bytes())["callers"]
        callers = {str(entry["name"]): bytes.fromhex(entry["token_sha256"]) for entry in entries}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a callers file: {type(error).__name__}") from error
    if len(callers) != len(entries):
        raise ValueError(f"{path} names a caller twice")
    if any(len(digest) != hashlib.sha256().digest_size for digest in callers.values()):
        raise ValueError(f"{path}: a token_sha256 is not 64 hexadecimal digits")
    scopes = {str(entry["name"]): entry.get("scopes", []) for entry in entries}
    for name, listed in scopes.items():
        if not isinstance(listed, list) or not all(isinstance(scope, str) for scope in listed):
            raise ValueError(f"{path}: the scopes of {name} are not a list of strings")
    return Callers(callers, {name: frozenset(listed) for name, listed in scopes.items() if listed})


@dataclass(frozen=True, slots=True)
class _Caller:
    name: str
    scopes: frozenset[str]


_current: ContextVar[_Caller] = ContextVar("caller")


@contextmanager
def calling_as(name: str, scopes: Collection[str] = ()) -> Iterator[None]:
    """Let what runs inside be a call of this caller; the server does so around each call, and tests may."""
    token = _current.set(_Caller(name, frozenset(scopes)))
    try:
        yield
    finally:
        _current.reset(token)


def caller() -> str:
    """Return the name of whoever makes the current call."""
    return _current.get().name


def demand_scope(scope: str) -> None:
    """Let the current call go on only if its caller has this scope.

    Raises:
        NotAllowed: they do not.
    """
    if scope not in _current.get().scopes:
        raise NotAllowed(
            Words(
                vi=f"Hệ thống gọi chưa có quyền `{scope}`: xin người quản trị thêm vào `scopes` trong tệp callers.",
                en=f"You lack the scope `{scope}`: ask the operators to add it to your `scopes` in the callers file.",
            ),
            metadata={"scope": scope},
        )
