"""What the inbox does wrong on purpose: rules that a test or a demo sets by API.

Rules are tried in order at each stage of a mail. A rule that fits acts; the first that is no `delay` ends the search,
so "wait, then refuse" is two rules. Once it has acted `times` times a rule is used up.

| action | what the client meets |
| --- | --- |
| `reply` | this code and text instead of the usual reply; after a 421 the connection ends, as RFC 5321 §3.8 has it |
| `delay` | nothing for `delay_s`, then things go on |
| `cut` | the connection breaks without a word |
| `half_line` | half of a reply line, then the end of the connection |
| `double_reply` | the reply twice, in one write |

| stage | when | recipient known |
| --- | --- | --- |
| `connect` | instead of the greeting | no |
| `mail`, `rcpt`, `data` | instead of the reply to that command | from `rcpt` on |
| `body` | at the first line of the body; anything but a delay ends the connection | yes |
| `reply` | after the whole body; with `store` the mail is kept before the rule acts, and the client is misled | yes |
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator


class Stage(StrEnum):
    """Where in a conversation a rule acts."""

    CONNECT = "connect"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    REPLY = "reply"


class Action(StrEnum):
    """What a rule does."""

    REPLY = "reply"
    DELAY = "delay"
    CUT = "cut"
    HALF_LINE = "half_line"
    DOUBLE_REPLY = "double_reply"


USUAL_CODES = {Stage.CONNECT: 220, Stage.MAIL: 250, Stage.RCPT: 250, Stage.DATA: 354, Stage.BODY: 421, Stage.REPLY: 250}


class Rule(BaseModel):
    """One rule, as it is written in JSON. The order of the fields matters: a check may look at fields above its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    stage: Stage
    action: Action
    to: str = Field(default="*", min_length=1, max_length=320)
    code: int | None = Field(default=None, ge=200, le=599)
    text: str = Field(default="scripted by the demo inbox", max_length=400)
    delay_s: float | None = Field(default=None, gt=0, le=600)
    times: int | None = Field(default=None, ge=1, le=1_000_000)
    store: bool = False

    @field_validator("to")
    @classmethod
    def _recipient_is_known(cls, to: str, rule: ValidationInfo) -> str:
        if to != "*" and rule.data.get("stage") in {Stage.CONNECT, Stage.MAIL}:
            raise ValueError('at this stage the recipient is not known yet; use "*" or stage "rcpt"')
        return to

    @field_validator("code")
    @classmethod
    def _code_fits_action(cls, code: int | None, rule: ValidationInfo) -> int | None:
        action = rule.data.get("action")
        if action is Action.REPLY and code is None:
            raise ValueError('action "reply" needs a code, for example 450')
        if action in {Action.DELAY, Action.CUT} and code is not None:
            raise ValueError(f'action "{action}" writes no reply; leave the code out, or add a second rule')
        return code

    @field_validator("text")
    @classmethod
    def _text_is_one_line(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("a reply is one line of printable text")
        return text

    @field_validator("delay_s")
    @classmethod
    def _delay_fits_action(cls, delay_s: float | None, rule: ValidationInfo) -> float | None:
        action = rule.data.get("action")
        if action is Action.DELAY and delay_s is None:
            raise ValueError('action "delay" needs delay_s, for example 2')
        if action not in {None, Action.DELAY} and delay_s is not None:
            raise ValueError(f'action "{action}" does not wait; put a rule with action "delay" before it')
        return delay_s

    @field_validator("store")
    @classmethod
    def _body_is_there(cls, store: bool, rule: ValidationInfo) -> bool:  # noqa: FBT001  pydantic calls it
        if store and rule.data.get("stage") not in {None, Stage.REPLY}:
            raise ValueError('only at stage "reply" is there a mail to store')
        return store

    def fits(self, stage: Stage, recipients: Sequence[str]) -> bool:
        """Tell whether this rule speaks of that stage and of one of these recipients."""
        glob = self.to.lower()
        return self.stage is stage and (glob == "*" or any(fnmatchcase(to.lower(), glob) for to in recipients))

    @property
    def reply(self) -> str:
        """The reply line that this rule writes, without its end."""
        return f"{self.code or USUAL_CODES[self.stage]} {self.text}"


class Behaviour:
    """The rules in force, and how often each has acted."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._used: list[int] = []

    @property
    def rules(self) -> list[tuple[Rule, int]]:
        """Each rule with the number of times it has acted."""
        return list(zip(self._rules, self._used, strict=True))

    def replace(self, rules: list[Rule]) -> None:
        """Put these rules in force instead of the present ones; none of them has acted yet."""
        self._rules = rules
        self._used = [0] * len(rules)

    def take(self, stage: Stage, recipients: Sequence[str]) -> list[Rule]:
        """Return the rules that act now, delays first, and count them as used."""
        acting = []
        for number, (rule, used) in enumerate(self.rules):
            if rule.fits(stage, recipients) and used != rule.times:
                self._used[number] += 1
                acting.append(rule)
                if rule.action is not Action.DELAY:
                    break
        return acting


def parse_rules(document: bytes) -> list[Rule]:
    """Read a JSON list of at most 100 rules. Raises: pydantic.ValidationError, naming each field and why."""
    return TypeAdapter(Annotated[list[Rule], Field(max_length=100)]).validate_json(document)
