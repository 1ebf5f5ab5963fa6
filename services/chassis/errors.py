"""Refusals: what a caller did not get, why, and what to do about it. No transport here.

Expected outcomes are return values, and bugs crash; only a refusal is a `ServiceError`. It carries a `Kind` (what sort
of refusal), a `reason` (a constant of the owner's proto enum) and words for people. `grpc_server` alone knows which
status a kind becomes; what is lost on that way is the Python type and the cause, which stay in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto


class Kind(Enum):
    """The sorts of refusal."""

    INVALID = auto()
    """The request can never succeed as it is."""
    UNAUTHENTICATED = auto()
    """We do not know who asks."""
    FORBIDDEN = auto()
    """We know who asks, and they may not."""
    NOT_FOUND = auto()
    """What is named does not exist."""
    CONFLICT = auto()
    """Somebody was faster, or the key was used for something else; read again, then decide."""
    PRECONDITION = auto()
    """Not in the state that this needs."""
    EXHAUSTED = auto()
    """Too much, too soon; wait as told."""
    UNAVAILABLE = auto()
    """A part that we need does not answer; the same call may succeed later."""


@dataclass(frozen=True, slots=True)
class Words:
    """One sentence for people, in both languages."""

    vi: str
    en: str


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks one rule."""

    field: str
    """Path in the request, such as `client.ip`."""
    words: Words
    """What is wrong and what would be right; never the value itself."""


class ServiceError(Exception):
    """A refusal, with everything its reader needs. Subclasses set `kind` and `reason`."""

    kind: Kind
    reason: str

    def __init__(
        self,
        words: Words,
        *,
        retry_after: timedelta | None = None,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        exceeded: Sequence[str] = (),
    ) -> None:
        """Refuse with `words`; `metadata` holds machine-readable facts, never personal data.

        `exceeded` names limits, and is told only to callers that may see them.
        """
        super().__init__(words.en)
        self.words = words
        self.retry_after = retry_after
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.exceeded = tuple(exceeded)
