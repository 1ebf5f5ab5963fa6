"""Who may call, and what they may do: the callers file, the caller of the current call, its rights.

Deny by default. A caller is known by a name in its certificate (a DNS name or URI of the SAN, RFC 5280 §4.2.1.6; TLS
has checked who signed it), or on a laptop by `authorization: Bearer <token>` whose SHA-256 stands in the file: tokens
are random, so an unsalted hash keeps them, and the comparison is constant-time over all callers. It may call the RPCs
of its entry, for the purposes of its entry, and what only a few may do with the scopes of its entry; an entry that
names none of them gives none. Only health may be asked by anybody.

Nobody we know is `NOT_AUTHENTICATED`, somebody who may not is `NOT_ALLOWED`: which of the two it was is told, and
counted apart. Whenever a scope opens or closes something, a line of the log says for whom (`scope_used`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.chassis.errors import Kind, ServiceError, Words

TOKEN_PATTERN = re.compile(r"Bearer ([A-Za-z0-9._~+/=-]{16,512})")  # RFC 6750 §2.1, neither short nor endless
ALL = "*"


class NotAuthenticated(ServiceError):
    """No credentials, or none that we know."""

    kind = Kind.UNAUTHENTICATED
    reason = "NOT_AUTHENTICATED"

    def __init__(self) -> None:
        """Say how to be known."""
        super().__init__(
            Words(
                vi="Thiếu hoặc sai thông tin xác thực của hệ thống gọi.",
                en="Come with a client certificate whose name is in the callers file, or on a laptop with metadata "
                "`authorization: Bearer <token>`.",
            )
        )


class NotAllowed(ServiceError):
    """The caller is known, and lacks the right that this call needs."""

    kind = Kind.FORBIDDEN
    reason = "NOT_ALLOWED"

    def __init__(self, right: str, what: str) -> None:
        """Name the right that is missing, `rpc`, `purpose` or `scope`, and of what."""
        super().__init__(
            Words(
                vi=f"Hệ thống gọi chưa có quyền {right} `{what}`: xin người quản trị thêm vào tệp callers.",
                en=f"You lack the {right} `{what}`: ask the operators to add it to your entry of the callers file.",
            ),
            metadata={right: what},
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """One platform service."""

    name: str
    token_sha256: bytes | None = None
    certificates: frozenset[str] = frozenset()
    """DNS names and URIs of the SAN that it may come with."""
    rpcs: frozenset[str] = frozenset()
    """`package.Service/Method`, `package.Service/*`, or `*`."""
    purposes: frozenset[str] = frozenset()
    """Of codes; `*` for all."""
    scopes: frozenset[str] = frozenset()

    def may_call(self, method: str) -> bool:
        """Return whether it may call a method such as `/kip.otp.v1.OtpService/VerifyCode`."""
        rpc = method.removeprefix("/")
        return not self.rpcs.isdisjoint({ALL, rpc, f"{rpc.partition('/')[0]}/{ALL}"})


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may call."""

    entries: tuple[Caller, ...] = ()

    def find(self, name: str) -> Caller | None:
        """Return the caller of that name."""
        return next((caller for caller in self.entries if caller.name == name), None)

    def with_token(self, authorization: str) -> Caller | None:
        """Return the caller who holds this token, or none; takes the same time for any token."""
        match = TOKEN_PATTERN.fullmatch(authorization)
        offered = hashlib.sha256((match.group(1) if match else "").encode()).digest()
        found = None
        for caller in self.entries:
            if hmac.compare_digest(offered, caller.token_sha256 or bytes(len(offered))) and caller.token_sha256:
                found = caller
        return found if match else None

    def with_certificate(self, names: Collection[str]) -> Caller | None:
        """Return the caller whom one of the names in a certificate belongs to, or none."""
        return next((caller for caller in self.entries if not caller.certificates.isdisjoint(names)), None)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(strict=True, min_length=1, max_length=64)]
    token_sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$")] = None
    certificates: list[Annotated[str, Field(strict=True, min_length=1, max_length=253)]] = Field(default_factory=list)
    rpcs: list[Annotated[str, Field(pattern=r"^(\*|[\w.]+/(\w+|\*))$")]] = Field(default_factory=list)
    purposes: list[Annotated[str, Field(strict=True, min_length=1)]] = Field(default_factory=list)
    scopes: list[Annotated[str, Field(strict=True, min_length=1)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _can_be_known(self) -> _Entry:
        if self.token_sha256 is None and not self.certificates:
            raise ValueError("needs token_sha256 or certificates, else nobody can be it")
        return self

    def caller(self) -> Caller:
        return Caller(
            name=self.name,
            token_sha256=bytes.fromhex(self.token_sha256) if self.token_sha256 else None,
            certificates=frozenset(self.certificates),
            rpcs=frozenset(self.rpcs),
            purposes=frozenset(self.purposes),
            scopes=frozenset(self.scopes),
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    callers: list[_Entry]

    @model_validator(mode="after")
    def _each_once(self) -> _File:
        for what in ("name", "token_sha256"):
            given = [value for entry in self.callers if (value := getattr(entry, what)) is not None]
            if len(set(given)) < len(given):
                raise ValueError(f"a {what} belongs to one caller")
        names = [name for entry in self.callers for name in entry.certificates]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"a certificate belongs to one caller; there are more for: {', '.join(twice)}")
        return self


def callers_of(path: Path, octets: bytes) -> Callers:
    """Return what a callers file says: JSON `{"callers": [{"name", "token_sha256" (hex), "certificates", "rpcs", …}]}`.

    Raises:
        ValueError: every problem of the file; no token and no hash is quoted.
    """
    try:
        return Callers(tuple(entry.caller() for entry in _File.model_validate_json(octets).callers))
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False, include_context=False)
        problems = [f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in told]
        raise ValueError("\n  ".join([f"{path} is no callers file:", *problems])) from None


def read_callers(path: Path) -> Callers:
    """Read the callers file. Raises as `callers_of` does, also where it cannot be read."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return callers_of(path, octets)


_current: ContextVar[Caller] = ContextVar("caller")


@contextmanager
def calling(who: Caller) -> Iterator[None]:
    """Let what runs inside be a call of this caller; the server does so around each call."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def calling_as(name: str, scopes: Collection[str] = (), purposes: Collection[str] = (ALL,)) -> Iterator[None]:
    """Let what runs inside be a call of a caller of that name, as tests do."""
    with calling(Caller(name, purposes=frozenset(purposes), scopes=frozenset(scopes))):
        yield


def caller() -> str:
    """Return the name of whoever makes the current call."""
    return _current.get().name


def demand_purpose(purpose: str) -> None:
    """Let the current call go on only if its caller may do so for this purpose.

    Raises:
        NotAllowed: it may not.
    """
    if _current.get().purposes.isdisjoint({ALL, purpose}):
        raise NotAllowed("purpose", purpose)


def demand_scope(scope: str) -> None:
    """Let the current call go on only if its caller has this scope; either way it is told in the log.

    Raises:
        NotAllowed: it has not.
    """
    granted = scope in _current.get().scopes
    structlog.get_logger().info("scope_used", caller=caller(), scope=scope, granted=granted)
    if not granted:
        raise NotAllowed("scope", scope)
