"""What otp is told from outside."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import HostPort, KafkaSettings, Profile, RedisSettings, demand

PACKAGED_POLICY = Path(__file__).with_name("policy.yaml")


class OtpSettings(KafkaSettings, RedisSettings):
    """`OTP_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="OTP_")

    grpc_address: HostPort = Field("0.0.0.0:50051", description="Where the API is served.")
    grpc_certificate_file: Path | None = Field(
        None, description="PEM certificate chain of the API; demanded in production."
    )
    grpc_key_file: Path | None = Field(None, description="PEM private key of the API; demanded in production.")
    grpc_client_ca_file: Path | None = Field(
        None, description="PEM: who signs the certificates that callers show; demanded in production."
    )
    redis_replicas: int = Field(
        0,
        ge=0,
        le=5,
        description="So many replicas of its server must have a change of a challenge before anybody is told of it "
        "(WAIT); without them calls are UNAVAILABLE. 0 = none is waited for, and a failover can lose what it was told.",
    )
    callers_file: Path = Field(description="JSON: who may call what, and how they are known.")
    policy_file: Path = Field(PACKAGED_POLICY, description="YAML: what each purpose promises.")
    admission: bool = Field(
        default=True,
        description="Refuse letters that would leave later than people wait; only a laptop may switch it off, to see "
        "codes die.",
    )
    code_keys_file: Path = Field(description="Key ring that codes are derived with; shared with the mailer.")
    handle_keys_file: Path = Field(description="Key ring of handles; otp's own.")
    index_keys_file: Path = Field(description="Key ring of the HMACs in keys; otp's own.")
    seal_code_keys_file: Path = Field(description="Key ring that seals addresses; shared with the mailer.")

    @model_validator(mode="after")
    def _protected(self) -> OtpSettings:
        if self.profile is Profile.PRODUCTION:
            demand(
                grpc_certificate_file=self.grpc_certificate_file,
                grpc_key_file=self.grpc_key_file,
                admission=self.admission,
                grpc_client_ca_file=self.grpc_client_ca_file,
            )
        return self
