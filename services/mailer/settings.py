"""What the mailer is told from outside."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import HostPort, KafkaSettings, Profile, demand

MAILBOX = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,250}$"  # RFC 5321 without quotes and literals


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


Printable = Annotated[str, AfterValidator(_printable)]
Zone = Annotated[str, AfterValidator(_zone)]


class MailerSettings(KafkaSettings):
    """`MAILER_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="MAILER_")

    redis_url: SecretStr = Field(description="redis:// or rediss:// URL of the ledger; rediss demanded in production.")
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
    sender_name: Printable = Field("Cổng dịch vụ công", max_length=60, description="Name in From.")
    sender_address: str = Field(
        "khong-tra-loi@kip.example", pattern=MAILBOX, description="From and envelope sender; ASCII."
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
            if not self.redis_url.get_secret_value().startswith("rediss://"):
                raise ValueError("redis_url must be a rediss:// URL outside a laptop")
        return self
