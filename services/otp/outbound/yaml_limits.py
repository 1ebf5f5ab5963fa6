"""The limits of the policy file: on letters, on guesses, on reissues; and which addresses lead to one mailbox."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, StrictBool, field_validator, model_validator

from services.otp.outbound.yaml_words import Duration, Entry
from services.otp.rules.address import Folding
from services.otp.rules.quota import SYSTEM_PARTS, Dimension, GuessesBy, Limit, Limits, Reissues, ReissuesBy

# As mail addresses carry it: ASCII, lower-case, `xn--` for others (RFC 5890).
Domain = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$")]


class LimitEntry(Entry):
    """One limit."""

    at_once: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    one_each: Duration

    def limit(self) -> Limit:
        """Return it as rules have it."""
        return Limit(self.at_once, self.one_each)


class GuessesEntry(Entry):
    """Limits on guesses that fail, over all challenges."""

    client: LimitEntry
    caller: LimitEntry
    failure_ratio: Annotated[float, Field(strict=True, gt=0, le=1)]


class ReissuesEntry(Entry):
    """What the machine may make by itself."""

    share: Annotated[float, Field(strict=True, ge=0, le=1)]
    domain: LimitEntry
    system: LimitEntry

    @model_validator(mode="after")
    def _leaves_some_to_others(self) -> Self:
        if self.system.at_once <= self.domain.at_once:
            raise ValueError("at_once of system must be more than that of domain: else one domain uses up everybody's")
        return self


class LimitsEntry(Entry):
    """One limit of each dimension."""

    subject: LimitEntry
    address: LimitEntry
    client: LimitEntry
    domain: LimitEntry
    domains: dict[Domain, LimitEntry] = Field(default_factory=dict)
    system: LimitEntry
    guesses: GuessesEntry
    reissues: ReissuesEntry

    @field_validator("system")
    @classmethod
    def _can_be_split(cls, system: LimitEntry) -> LimitEntry:
        if system.at_once < SYSTEM_PARTS:
            raise ValueError(f"at_once must be {SYSTEM_PARTS} or more: it is split into so many parts")
        return system


class MailboxesEntry(Entry):
    """Domains of one provider, the first of which stands for all, and how it spells a mailbox."""

    domains: Annotated[tuple[Domain, ...], Field(min_length=1, max_length=50)]
    ignores_dots: StrictBool = False
    tag: Annotated[str, Field(pattern="^[-_=.]?$")] = ""


def _each_once(entries: tuple[MailboxesEntry, ...]) -> tuple[MailboxesEntry, ...]:
    domains = [domain for entry in entries for domain in entry.domains]
    twice = sorted({domain for domain in domains if domains.count(domain) > 1})
    if twice:
        raise ValueError(f"a domain has one provider; there is more than one for: {', '.join(twice)}")
    return entries


Mailboxes = Annotated[tuple[MailboxesEntry, ...], Field(max_length=200), AfterValidator(_each_once)]


def limits_of(entry: LimitsEntry, mailboxes: Mailboxes) -> Limits:
    """Return the limits as rules have them."""
    first = {domain: each.domains[0] for each in mailboxes for domain in each.domains}
    return Limits(
        letters={dimension: getattr(entry, dimension.value).limit() for dimension in Dimension},
        domains={first.get(domain, domain): each.limit() for domain, each in entry.domains.items()},
        foldings={
            domain: Folding(each.domains[0], each.ignores_dots, each.tag)
            for each in mailboxes
            for domain in each.domains
        },
        guesses={GuessesBy.CLIENT: entry.guesses.client.limit(), GuessesBy.CALLER: entry.guesses.caller.limit()},
        failure_ratio=entry.guesses.failure_ratio,
        reissues=Reissues(
            entry.reissues.share,
            {ReissuesBy.DOMAIN: entry.reissues.domain.limit(), ReissuesBy.SYSTEM: entry.reissues.system.limit()},
        ),
    )
