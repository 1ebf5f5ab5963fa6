"""How Redis is reached: what is nonsense is refused at the start, by the name that a person can set."""

from __future__ import annotations

import os

import pytest
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import RedisSettings, read_settings, redis_hosts


class BoxSettings(RedisSettings):
    """A made-up service."""

    model_config = SettingsConfigDict(env_prefix="BOX_")


def told(monkeypatch: pytest.MonkeyPatch, url: str, *, cluster: str = "", profile: str = "laptop") -> None:
    for name in [name for name in os.environ if name.startswith("BOX_")]:
        monkeypatch.delenv(name)
    for name, value in {"PROFILE": profile, "REDIS_URL": url, "REDIS_CLUSTER": cluster}.items():
        monkeypatch.setenv(f"BOX_{name}", value)


@pytest.mark.parametrize(
    ("url", "cluster"),
    [
        ("redis://redis/3", ""),
        ("redis://redis:6379", ""),
        ("redis://a:6379", "true"),
        ("redis://user:p%40ss@a:6379,b:6379,[::1]:6379/0", "true"),
        ("redis://a:6379/?socket_timeout=1", "true"),
    ],
)
def test_one_server_or_nodes_of_a_cluster_are_accepted(monkeypatch: pytest.MonkeyPatch, url: str, cluster: str) -> None:
    told(monkeypatch, url, cluster=cluster)

    settings = read_settings(BoxSettings)

    assert settings.redis_url.get_secret_value() == url
    assert settings.redis_cluster is bool(cluster)


@pytest.mark.parametrize(
    ("url", "cluster", "profile", "why"),
    [
        ("redis://redis/0", "", "production", "redis_url must be a rediss:// URL outside a laptop"),
        ("redis://a:6379,b:6379", "true", "production", "redis_url must be a rediss:// URL outside a laptop"),
        ("redis://a:6379,b:6379/0", "", "laptop", "names several servers: set redis_cluster, or name one"),
        ("redis://a:6379/3", "true", "laptop", "a cluster has database 0 only"),
        ("unix:///run/redis", "true", "laptop", "must be redis:// or rediss://"),
        ("redis://a", "true", "laptop", "must give HOST:PORT of each node"),
        ("redis://a:6379,/0", "true", "laptop", "must give HOST:PORT of each node"),
        ("redis://a:6379,b:made-up-secret", "true", "laptop", "must give HOST:PORT of each node"),
    ],
)
def test_nonsense_is_refused_and_not_shown(  # noqa: PLR0917 - two fixtures, four columns
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, cluster: str, profile: str, why: str
) -> None:
    told(monkeypatch, url, cluster=cluster, profile=profile)

    with pytest.raises(SystemExit):
        read_settings(BoxSettings)

    shown = capsys.readouterr().err
    assert why in shown
    assert "made-up-secret" not in shown


def test_the_hosts_of_a_url_are_what_stands_after_its_user() -> None:
    assert redis_hosts("rediss://user:a,b@one:1,[::1]:2/0") == ["one:1", "[::1]:2"]
