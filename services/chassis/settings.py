"""What every process is told from outside: environment variables, checked once at the start, all problems together.

Only a service's `__main__` reads settings. Outside the profile `laptop` whatever protects people is demanded, not
merely offered: a service states those demands in a validator of its own and calls `demand`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

EXIT_BAD_SETTINGS = 2


class Profile(StrEnum):
    """Where the process runs."""

    LAPTOP = "laptop"
    """One machine, made-up data: no TLS, bearer tokens."""
    PRODUCTION = "production"
    """Everything else."""


def _host_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051")
    return text


HostPort = Annotated[str, AfterValidator(_host_port)]
"""`HOST:PORT`."""


def split_host_port(address: str) -> tuple[str, int]:
    """Return host and port of a `HostPort`; the brackets of an IPv6 address are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class ProcessSettings(BaseSettings):
    """What any process here is told; a service adds its own and sets the prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, env_ignore_empty=True)

    profile: Profile = Field(
        Profile.PRODUCTION,
        description="`production` demands TLS everywhere; `laptop` is for one machine with made-up data.",
    )
    http_address: HostPort = Field("0.0.0.0:9090", description="Serves /metrics, /healthz and /readyz.")
    probe_address: HostPort = Field("0.0.0.0:50050", description="Serves plain gRPC health, for the kubelet.")
    drain_grace: timedelta = Field(
        timedelta(seconds=10),
        gt=timedelta(0),
        description="How long work in hand may take to end after SIGTERM (ISO 8601, such as PT10S).",
    )


class KafkaSettings(ProcessSettings):
    """How Kafka is reached."""

    kafka_brokers: str = Field(min_length=1, description="Bootstrap servers, HOST:PORT, separated by commas.")
    kafka_tls: bool = Field(default=False, description="Speak TLS to the brokers.")
    kafka_ca_file: Path | None = Field(
        None, description="CA that signed the brokers' certificates; the system's when absent."
    )
    kafka_user: str | None = Field(None, description="SCRAM-SHA-512 user; needs kafka_password.")
    kafka_password: SecretStr | None = Field(None, description="SCRAM-SHA-512 password.")

    @model_validator(mode="after")
    def _kafka_is_protected(self) -> KafkaSettings:
        if (self.kafka_user is None) != (self.kafka_password is None):
            raise ValueError("kafka_user and kafka_password go together: set both or none")
        if self.profile is Profile.PRODUCTION:
            demand(kafka_tls=self.kafka_tls, kafka_user=self.kafka_user)
        return self


class RedisSettings(ProcessSettings):
    """How Redis is reached."""

    redis_url: SecretStr = Field(
        description="redis:// or rediss:// URL; rediss demanded in production. Of a cluster it names one node or more: "
        "rediss://USER:PASSWORD@HOST:PORT,HOST:PORT."
    )
    redis_cluster: bool = Field(
        default=False, description="redis_url names nodes of a Redis Cluster; the others are found from them."
    )

    @model_validator(mode="after")
    def _redis_can_be_reached(self) -> RedisSettings:
        url = urlsplit(self.redis_url.get_secret_value())
        if self.profile is Profile.PRODUCTION and url.scheme != "rediss":
            raise ValueError("redis_url must be a rediss:// URL outside a laptop")
        hosts = redis_hosts(self.redis_url.get_secret_value())
        if not self.redis_cluster:
            if len(hosts) > 1:
                raise ValueError("redis_url names several servers: set redis_cluster, or name one")
            return self
        if url.scheme not in {"redis", "rediss"} or url.path.strip("/") not in {"", "0"}:
            raise ValueError("redis_url of a cluster must be redis:// or rediss://, and a cluster has database 0 only")
        for host in hosts:
            try:
                _host_port(host)
            except ValueError as error:
                raise ValueError("redis_url of a cluster must give HOST:PORT of each node it names") from error
        return self


def redis_hosts(url: str) -> list[str]:
    """Return what stands between the user and the path of a URL, split at its commas."""
    return urlsplit(url).netloc.rpartition("@")[2].split(",")


def demand(**needed: object) -> None:
    """Demand that each named setting is set.

    Raises:
        ValueError: names every one that is not, and how to run without.
    """
    missing = sorted(name for name, value in needed.items() if not value)
    if missing:
        raise ValueError(f"{', '.join(missing)} must be set outside a laptop (for a laptop: PROFILE=laptop)")


S = TypeVar("S", bound=BaseSettings)


def read_settings(kind: type[S]) -> S:
    """Read settings from the environment, or name every problem on stderr and exit with status 2.

    A variable with the service's prefix that is no setting is a problem too: it is a misspelt one.
    """
    prefix = kind.model_config.get("env_prefix", "")
    problems = [
        f"{name}: no such setting"
        for name in sorted(os.environ)
        if name.startswith(prefix) and name.removeprefix(prefix).lower() not in kind.model_fields
    ]
    try:
        settings = kind()
    except ValidationError as error:
        problems += [_problem(prefix, e["loc"], e["msg"]) for e in error.errors(include_input=False, include_url=False)]
    else:
        if not problems:
            return settings
    print("Cannot start: settings are wrong.", *problems, sep="\n  ", file=sys.stderr)  # noqa: T201 - no logging yet
    sys.exit(EXIT_BAD_SETTINGS)


@contextmanager
def reading_files() -> Iterator[None]:
    """Turn what settings name and cannot be used (`ValueError`) into its sentence on stderr and exit status 2."""
    try:
        yield
    except ValueError as error:
        print(f"Cannot start: {error}", file=sys.stderr)  # noqa: T201 - for whoever started the process
        sys.exit(EXIT_BAD_SETTINGS)


def _problem(prefix: str, where: tuple[int | str, ...], message: str) -> str:
    name = prefix + "_".join(str(part) for part in where).upper() if where else prefix + "*"
    return f"{name}: {message.removeprefix('Value error, ')}"
