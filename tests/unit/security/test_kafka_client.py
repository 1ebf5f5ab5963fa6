"""What a Kafka client is told, and what its errors mean for people."""

from __future__ import annotations

import ssl

import pytest
from kafka import errors

from services.chassis.kafka_client import MISSING_RIGHT, Refused, Trouble, client_config, trouble_of
from services.chassis.settings import KafkaSettings

PASSWORD = "made-up-secret"


def settings(**different: object) -> KafkaSettings:
    told = {
        "kafka_brokers": "one:9093,two:9093",
        "kafka_tls": True,
        "kafka_ca_file": "/somewhere/ca.pem",
        "kafka_user": "otp",
        "kafka_password": PASSWORD,
    }
    return KafkaSettings(**(told | different))  # type: ignore[arg-type] # as an environment would


def test_what_production_is_told_reaches_the_client() -> None:
    assert client_config(settings()) == {
        "bootstrap_servers": ["one:9093", "two:9093"],
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "/somewhere/ca.pem",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "otp",
        "sasl_plain_password": PASSWORD,
    }
    assert PASSWORD not in repr(settings())


def test_without_a_file_the_authorities_of_the_system_are_asked() -> None:
    assert "ssl_cafile" not in client_config(settings(kafka_ca_file=None))


def test_a_laptop_speaks_plainly_and_has_no_name() -> None:
    plain = settings(profile="laptop", kafka_tls=False, kafka_ca_file=None, kafka_user=None, kafka_password=None)

    assert client_config(plain) == {
        "bootstrap_servers": ["one:9093", "two:9093"],
        "security_protocol": "PLAINTEXT",
    }


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


def during(error: Exception, of: Exception) -> Exception:
    error.__context__ = of
    return error


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (errors.KafkaTimeoutError(), Trouble.BROKER_AWAY),
        (ConnectionRefusedError(), Trouble.BROKER_AWAY),
        (TimeoutError(), Trouble.BROKER_AWAY),
        (errors.SaslAuthenticationFailedError(), Trouble.DENIED),
        (errors.UnsupportedSaslMechanismError(), Trouble.DENIED),
        (errors.TopicAuthorizationFailedError("topic"), Trouble.DENIED),
        (errors.GroupAuthorizationFailedError("group"), Trouble.DENIED),
        (ssl.SSLCertVerificationError(), Trouble.BROKER_UNTRUSTED),
        (during(errors.KafkaConnectionError("Handshake failed"), ssl.SSLError()), Trouble.BROKER_UNTRUSTED),
        (caused(RuntimeError(), errors.TopicAuthorizationFailedError()), Trouble.DENIED),
        (FileNotFoundError("ca.pem"), Trouble.BROKER_UNTRUSTED),
        (Refused(Trouble.BROKER_UNTRUSTED, "certificate"), Trouble.BROKER_UNTRUSTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_an_error_is_told_by_what_people_can_do_about_it(error: Exception, trouble: Trouble) -> None:
    assert trouble_of(error) is trouble


def test_a_refusal_says_what_to_look_at() -> None:
    assert str(Refused(Trouble.DENIED, "bad credentials")) == (
        "denied: the broker refuses the password: look at *_KAFKA_USER and *_KAFKA_PASSWORD (bad credentials)"
    )
    assert MISSING_RIGHT in str(Refused(Trouble.DENIED, "topic x", MISSING_RIGHT))
