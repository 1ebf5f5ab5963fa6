"""What may stand in the policy file: the shape of its entries, and what fields owe each other and the standards.

What fields owe each other is checked per field, against those above it that are right in themselves, so that one wrong
field hides no other problem. Limits are of two kinds: hard ones keep arithmetic and mailboxes sane; those of
`rules/standards` are lifted by an entry that gives its reason as `beyond_standard`.
"""

from __future__ import annotations

from datetime import timedelta, tzinfo
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo, field_validator

from services.otp.outbound.yaml_limits import LimitsEntry, Mailboxes
from services.otp.outbound.yaml_words import Duration, DurationOfDays, Entry, Hours, Text, Zone
from services.otp.rules.hotline import OpeningHours
from services.otp.rules.policy import AdviceKind
from services.otp.rules.standards import CAPS, beyond

NOTHING = timedelta(0)
HOW_TO_LIFT = 'an entry that must do so says why: beyond_standard: "<reason>"'

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,31}$")]
Count = Annotated[int, Field(strict=True, ge=1, le=100)]  # NIST SP 800-63B allows no 101st failure in a row


class WordsEntry(Entry):
    """A text in every language that we write."""

    vi: Text
    en: Text


def _complete(advice: dict[AdviceKind, WordsEntry]) -> dict[AdviceKind, WordsEntry]:
    lacking = [kind for kind in AdviceKind if kind not in advice]
    if lacking:
        raise ValueError(f"needs words for: {', '.join(lacking)}")
    return advice


Advice = Annotated[dict[AdviceKind, WordsEntry], AfterValidator(_complete)]


class HotlineEntry(Entry):
    """Who can be phoned."""

    phone: Annotated[str, Field(pattern=r"^\+?[0-9][0-9 .-]{1,22}[0-9]$")]
    zone: Annotated[tzinfo, Zone]
    open: Annotated[tuple[Annotated[OpeningHours, Hours], ...], Field(min_length=1, max_length=50)]
    text: WordsEntry


class PurposeEntry(Entry):
    """One purpose; the order of the fields is the order in which they may look at each other."""

    beyond_standard: Annotated[str | None, Field(min_length=1, max_length=300)] = None
    digits: Annotated[int, Field(strict=True, ge=4, le=10)]
    life: Duration
    max_life: Duration
    patience: Duration
    reserve: Duration
    prompt: Duration
    slow: Duration
    challenge_life: DurationOfDays
    cooldowns: Annotated[tuple[Duration, ...], Field(min_length=1, max_length=8)]
    attempts_per_handle: Count
    attempts: Count
    code_in_subject: StrictBool
    enumeration_safe: StrictBool
    spam_after: Duration
    default_locale: Annotated[str, Field(pattern="^(vi|en)$")]
    alternatives: tuple[Text, ...]
    hotline: str | None = None
    """Name of a hotline of the file."""
    advice: str
    """Name of a set of words of the file."""

    @field_validator(*CAPS)
    @classmethod
    def _keeps_to_the_standards(cls, value: object, above: ValidationInfo) -> object:
        passed = beyond(str(above.field_name), value)
        # A reason that is there but wrong is a problem of its own, and this one would be a false alarm.
        if passed is not None and above.data.get("beyond_standard", "wrong") is None:
            raise ValueError(f"{passed}; {HOW_TO_LIFT}")
        return value

    @field_validator("max_life")
    @classmethod
    def _holds_life(cls, max_life: timedelta, above: ValidationInfo) -> timedelta:
        if max_life < above.data.get("life", NOTHING):
            raise ValueError("must not be shorter than life")
        return max_life

    @field_validator("reserve")
    @classmethod
    def _leaves_time(cls, reserve: timedelta, above: ValidationInfo) -> timedelta:
        if reserve >= above.data.get("patience", timedelta.max):
            raise ValueError("must be shorter than patience: the difference is what the queue may use")
        if reserve >= above.data.get("life", timedelta.max):
            raise ValueError("must be shorter than life, else every code arrives too late to be typed")
        return reserve

    @field_validator("slow")
    @classmethod
    def _is_between(cls, slow: timedelta, above: ValidationInfo) -> timedelta:
        if slow <= above.data.get("prompt", NOTHING):
            raise ValueError("must be longer than prompt")
        if {"patience", "reserve"} <= above.data.keys() and slow >= above.data["patience"] - above.data["reserve"]:
            raise ValueError("must be shorter than patience - reserve, else the page comes when letters are dropped")
        return slow

    @field_validator("challenge_life")
    @classmethod
    def _holds_the_last_code(cls, challenge_life: timedelta, above: ValidationInfo) -> timedelta:
        if challenge_life < above.data.get("patience", NOTHING) + above.data.get("life", NOTHING):
            raise ValueError("must hold patience + life, else the last code dies with the challenge")
        if challenge_life < above.data.get("max_life", NOTHING):
            raise ValueError("must not be shorter than max_life")
        return challenge_life

    @field_validator("cooldowns")
    @classmethod
    def _never_shrink(cls, cooldowns: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
        if list(cooldowns) != sorted(cooldowns):
            raise ValueError("must not become shorter: who asks more often waits longer")
        return cooldowns


class PolicyFile(Entry):
    """The whole file."""

    advice: dict[Name, Advice]
    hotlines: dict[Name, HotlineEntry] = Field(default_factory=dict)
    limits: LimitsEntry
    mailboxes: Mailboxes = ()
    purposes: Annotated[dict[Name, PurposeEntry], Field(min_length=1)]
