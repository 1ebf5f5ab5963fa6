"""The policy, read from YAML and checked: every problem at once, in the words of the file."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from services.otp.rules.policy import AdviceKind, Policy, Purpose

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h)")
UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
}
NOTHING = timedelta(0)
LONGEST_LIFE = timedelta(minutes=10)  # NIST SP 800-63B §5.1.3.2, OWASP ASVS 6.5.5


class PolicyWrongError(ValueError):
    """The policy file cannot be used; the text lists every problem."""


def _duration(value: object) -> timedelta:
    match = DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a number with s, min or h, such as `5 min`")
    return float(match.group(1)) * UNITS[match.group(2)]


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0))]
Text = Annotated[str, Field(min_length=1, max_length=500)]


class _PurposeEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    digits: Annotated[int, Field(ge=6, le=10)]
    patience: Duration
    reserve: Duration
    life: Duration
    max_life: Annotated[Duration, Field(le=LONGEST_LIFE)]
    challenge_life: Duration
    cooldown: Duration
    attempts_per_handle: Annotated[int, Field(ge=1, le=10)]
    attempts: Annotated[int, Field(ge=1, le=100)]
    spam_after: Duration
    default_locale: Annotated[str, Field(pattern="^(vi|en)$")]
    alternatives: tuple[Text, ...]
    advice: dict[AdviceKind, dict[str, Text]]

    # What fields owe each other is checked per field, against those above it that are right in themselves, so that one
    # wrong field hides no other problem.

    @field_validator("reserve")
    @classmethod
    def _leaves_time(cls, reserve: timedelta, above: ValidationInfo) -> timedelta:
        if reserve >= above.data.get("patience", timedelta.max):
            raise ValueError("must be shorter than patience: the difference is what the queue may use")
        return reserve

    @field_validator("max_life")
    @classmethod
    def _holds_life(cls, max_life: timedelta, above: ValidationInfo) -> timedelta:
        if max_life < above.data.get("life", NOTHING):
            raise ValueError("must not be shorter than life")
        return max_life

    @field_validator("challenge_life")
    @classmethod
    def _holds_the_last_code(cls, challenge_life: timedelta, above: ValidationInfo) -> timedelta:
        if challenge_life < above.data.get("patience", NOTHING) + above.data.get("life", NOTHING):
            raise ValueError("must hold patience + life, else the last code dies with the challenge")
        return challenge_life

    @field_validator("advice")
    @classmethod
    def _speaks(cls, advice: dict[AdviceKind, dict[str, str]]) -> dict[AdviceKind, dict[str, str]]:
        lacking = [kind for kind in AdviceKind if set(advice.get(kind, {})) != {"vi", "en"}]
        if lacking:
            raise ValueError(f"needs vi and en for: {', '.join(lacking)}")
        return advice


class _PolicyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    purposes: Annotated[
        dict[Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,31}$")], _PurposeEntry], Field(min_length=1)
    ]


def read_policy(path: Path) -> Policy:
    """Read and check the policy.

    Raises:
        PolicyWrongError: lists every problem of the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyWrongError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise PolicyWrongError(f"{path} is not YAML: {error}") from error
    try:
        entries = _PolicyFile.model_validate(content).purposes
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise PolicyWrongError("\n  ".join([f"{path} is wrong:", *problems])) from error
    return Policy({name: Purpose(name=name, **dict(entry)) for name, entry in entries.items()})
