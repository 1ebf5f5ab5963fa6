"""What the mailer is told from outside."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, TypeAdapter, ValidationError, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.chassis.settings import HostPort, KafkaSettings, Profile, RedisSettings, demand

MAILBOX = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,250}$"  # RFC 5321 without quotes and literals

MOST_TIERS = 8  # each is a topic, a group and a consumer of every mailer
LONGEST_DELAY = timedelta(hours=24)  # nobody hears of a letter meanwhile; and what is patient for 48 h is tried twice


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("is no time zone of this machine; such as Asia/Ho_Chi_Minh") from error
    return name


def _delays(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        delays = tuple(TypeAdapter(timedelta).validate_python(part.strip()) for part in text.split(","))
    except ValidationError as error:
        raise ValueError("must be ISO 8601, such as PT1S,PT1M") from error
    if any(not timedelta(0) < delay <= LONGEST_DELAY or delay % timedelta(seconds=1) for delay in delays):
        raise ValueError("each must be whole seconds, from PT1S to PT24H")
    if any(later <= sooner for sooner, later in pairwise(delays)):
        raise ValueError("must rise")
    return delays


Delays = Annotated[
    tuple[timedelta, ...], NoDecode, BeforeValidator(_delays), Field(min_length=1, max_length=MOST_TIERS)
]
"""ISO 8601, separated by commas: of each a tier, and its topic."""
Printable = Annotated[str, AfterValidator(_printable)]
Zone = Annotated[str, AfterValidator(_zone)]


def _notify(text: str) -> str:
    asked = text.split(",")
    if len(set(asked)) < len(asked) or not {"SUCCESS", "DELAY", "FAILURE"}.issuperset(asked):
        raise ValueError("must be some of SUCCESS,DELAY,FAILURE, separated by commas")
    return text


Notify = Annotated[str, AfterValidator(_notify)]
"""Of RFC 3461 §4.1, without NEVER."""


class MailerSettings(KafkaSettings, RedisSettings):
    """`MAILER_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="MAILER_")

    relay_address: HostPort = Field(description="SMTP relay that takes the mail.")
    relay_starttls: bool = Field(
        default=True, description="Demand STARTTLS and check the certificate; only a laptop may switch it off."
    )
    relay_ca_file: Path | None = Field(
        None, description="CA that signed the relay's certificate; the system's when absent."
    )
    relay_user: str | None = Field(None, description="SMTP AUTH user; needs relay_password.")
    relay_password: SecretStr | None = Field(None, description="SMTP AUTH password.")
    slots_otp: int = Field(16, ge=1, le=200, description="SMTP transactions at once for codes.")
    slots_notice: int = Field(8, ge=1, le=200, description="SMTP transactions at once for notices.")
    reply_timeout_otp: timedelta = Field(
        timedelta(seconds=30),
        gt=timedelta(0),
        description="Wait for the reply after the body of a code; then its fate is unknown.",
    )
    reply_timeout_notice: timedelta = Field(
        timedelta(minutes=10), gt=timedelta(0), description="The same for notices (RFC 5321 §4.5.3.2.6)."
    )
    retry_delays_otp: Delays = Field(
        "PT1S,PT3S,PT10S,PT30S,PT1M",
        validate_default=True,
        description="Tiers of codes: after its n-th failure a code waits the n-th delay, the last one again and again, "
        "until its deadline. Each needs its topic (deploy/create_topics.py).",
    )
    retry_delays_notice: Delays = Field(
        "PT1M,PT10M,PT1H,PT6H",
        validate_default=True,
        description="The same for notices.",
    )
    patience_notice: timedelta = Field(
        timedelta(hours=48),
        gt=timedelta(0),
        le=timedelta(days=7),
        description="A notice is given up this long after it was asked for, or at its own deadline if that is sooner.",
    )
    sender_name: Printable = Field("Cổng dịch vụ công", max_length=60, description="Name in From.")
    sender_address: str = Field(
        "khong-tra-loi@kip.example", pattern=MAILBOX, description="From and envelope sender; ASCII."
    )
    return_path: str | None = Field(
        None, pattern=MAILBOX, description="Envelope sender, if not sender_address: where relays write about letters."
    )
    receipt_keys_file: Path | None = Field(
        None,
        description="Key ring that signs envelope ids, shared with the receipts; none = no relay is to notify us.",
    )
    notify: Notify = Field(
        "SUCCESS,DELAY,FAILURE",
        description="What a relay is to notify us of (RFC 3461). SUCCESS doubles the mails: leave it out where the log "
        "of the relay is read.",
    )
    time_zone: Zone = Field("Asia/Ho_Chi_Minh", description="IANA zone of the times printed in letters.")
    code_keys_file: Path = Field(description="Key ring that codes are derived with; shared with otp.")
    seal_code_keys_file: Path = Field(description="Key ring that opens orders of otp.")
    seal_notice_keys_file: Path = Field(description="Key ring that opens orders of notices.")

    @model_validator(mode="after")
    def _protected(self) -> MailerSettings:
        if (self.relay_user is None) != (self.relay_password is None):
            raise ValueError("relay_user and relay_password go together: set both or none")
        if self.profile is Profile.PRODUCTION:
            demand(relay_starttls=self.relay_starttls)
        return self


class ReceiptsSettings(KafkaSettings, RedisSettings):
    """`RECEIPTS_*` in the environment: what the second process of the mailer is told, which takes in receipts."""

    model_config = SettingsConfigDict(env_prefix="RECEIPTS_")

    log_file: Path | None = Field(
        None, description="Log of a Postfix relay, under the name that it has before any rotation; none = none is read."
    )
    log_route: str = Field(
        "relay-1", pattern=r"^[a-z0-9-]{1,40}$", description="Route of the mailer whose relay writes that log."
    )
    log_backoff_least: timedelta = Field(
        timedelta(seconds=300), gt=timedelta(0), description="minimal_backoff_time of that relay."
    )
    log_backoff_most: timedelta = Field(
        timedelta(seconds=4000), gt=timedelta(0), description="maximal_backoff_time of that relay."
    )
    smtp_address: HostPort | None = Field(
        None,
        description="Takes mails to the return path; none = no notifications are read. For relays, not for the world.",
    )
    return_path: str = Field(
        "khong-tra-loi@kip.example",
        pattern=MAILBOX,
        description="Envelope sender of the mailer; mail to anybody else is refused.",
    )
    receipt_keys_file: Path | None = Field(
        None, description="Key ring that signs envelope ids, shared with the mailer; needed with smtp_address."
    )

    @model_validator(mode="after")
    def _complete(self) -> ReceiptsSettings:
        if self.log_file is None and self.smtp_address is None:
            raise ValueError("set log_file, smtp_address or both: there is nothing else to do")
        if self.smtp_address is not None and self.receipt_keys_file is None:
            raise ValueError("smtp_address needs receipt_keys_file")
        if self.log_backoff_most < self.log_backoff_least:
            raise ValueError("log_backoff_most must not be less than log_backoff_least")
        return self
