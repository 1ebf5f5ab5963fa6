"""What dossier is told from outside."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import HostPort, KafkaSettings, Profile, demand

SQLITE = ("sqlite:///", "sqlite+aiosqlite:///")
POSTGRESQL = ("postgresql://", "postgresql+asyncpg://")
PACKAGED_PROCEDURES = Path(__file__).with_name("procedures")


class DossierSettings(KafkaSettings):
    """`DOSSIER_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="DOSSIER_")

    grpc_address: HostPort = Field("0.0.0.0:50051", description="Where the API is served.")
    grpc_certificate_file: Path | None = Field(
        None, description="PEM certificate chain of the API; demanded in production."
    )
    grpc_key_file: Path | None = Field(None, description="PEM private key of the API; demanded in production.")
    grpc_client_ca_file: Path | None = Field(
        None, description="PEM: who signs the certificates that callers show; demanded in production."
    )
    callers_file: Path = Field(description="JSON: who may call what, and how they are known.")
    database_url: SecretStr = Field(
        description="`postgresql://USER:PASSWORD@HOST:PORT/NAME`, or on a laptop `sqlite:///PATH`."
    )
    seal_notice_keys_file: Path = Field(description="Key ring that seals addresses; shared with the mailer.")
    procedures_dir: Path = Field(PACKAGED_PROCEDURES, description="Folder of the procedures, one YAML file each.")
    agency: str = Field(
        "K01", pattern=r"^[A-Z0-9.]{1,16}$", description="Code of the office, the first part of a dossier's number."
    )

    @field_validator("database_url")
    @classmethod
    def _database_is_one_we_know(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(SQLITE + POSTGRESQL):
            raise ValueError(f"must start with {POSTGRESQL[0]} or {SQLITE[0]}")
        return url

    @model_validator(mode="after")
    def _protected(self) -> DossierSettings:
        if self.profile is Profile.PRODUCTION:
            demand(
                grpc_certificate_file=self.grpc_certificate_file,
                grpc_key_file=self.grpc_key_file,
                grpc_client_ca_file=self.grpc_client_ca_file,
            )
            if self.database_url.get_secret_value().startswith(SQLITE):
                raise ValueError("database_url: SQLite is for a laptop (PROFILE=laptop); elsewhere use PostgreSQL")
        return self
