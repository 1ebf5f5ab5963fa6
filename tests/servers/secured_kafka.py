"""A broker as production has it: TLS with an authority of its own, SCRAM users, nothing allowed that is not granted.

Clients have one door, which takes no client without a name and a password. The broker itself, and whoever makes the
first users, come through a second one that asks for a certificate: a broker that has no users yet can let nobody in.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

from deploy.dev.kafka_broker import KafkaBroker
from services.chassis.settings import KafkaSettings

ADMIN = "admin"
STRANGER = "stranger"
"""Has a password and no right."""
PASSWORD = "made-up-password-of-"  # and the user's name
HOST = IPv4Address("127.0.0.1")

SECURED = """
listeners=CLIENTS://127.0.0.1:{clients},BROKERS://127.0.0.1:{brokers},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENTS://127.0.0.1:{clients},BROKERS://127.0.0.1:{brokers}
listener.security.protocol.map=CLIENTS:SASL_SSL,BROKERS:SSL,CONTROLLER:SSL
inter.broker.listener.name=BROKERS
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
listener.name.brokers.ssl.client.auth=required
listener.name.controller.ssl.client.auth=required
listener.name.clients.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:CN=broker;User:admin
"""


class Authority:
    """Signs certificates; trusted by whoever reads its file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        made = self._signed(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Path:
        """Make a key and a certificate for loopback; return the file that holds both."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._signed(subject, key.public_key(), x509.BasicConstraints(ca=False, path_length=None))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        file = self._folder / f"{name}.pem"
        secret = key.private_bytes(encoding, form, serialization.NoEncryption())
        file.write_bytes(secret + made.public_bytes(encoding))
        return file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, constraints: x509.BasicConstraints
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(HOST)]), critical=False)
            .add_extension(constraints, critical=True)
            .sign(self._key, hashes.SHA256())
        )


class SecuredKafka(KafkaBroker):
    """The broker; `address` is the door of its clients.

    Args:
        directory: data, certificates, configuration and log.
        users: who gets a password, besides `ADMIN`; nobody has a right but `ADMIN`, who has all.
    """

    def __init__(self, directory: Path, users: tuple[str, ...]) -> None:
        super().__init__(directory)
        self._wanted_ports["kafka.brokers"] = None
        self._users = (ADMIN, *users)
        self._certificates = directory
        directory.mkdir(parents=True, exist_ok=True)
        authority = Authority(directory, "ca")
        self.ca_file = authority.file
        self.other_ca_file = Authority(directory, "other-ca").file
        """Another authority, which did not sign the broker's certificate."""
        self._own_file = authority.issue("broker")

    def prepare(self) -> None:
        """Write the configuration of a plain broker, and what is different; the last word counts."""
        super().prepare()
        ports = {
            "clients": self.port("kafka"),
            "brokers": self.port("kafka.brokers"),
            "controller": self.port("kafka.controller"),
        }
        plain = self._properties.read_text().splitlines()
        ours = SECURED.format(folder=self._certificates, **ports)
        replaced = {line.partition("=")[0] for line in ours.splitlines() if line}
        kept = [line for line in plain if line.partition("=")[0] not in replaced]
        self._properties.write_text("\n".join([*kept, ours]))

    def make_users(self) -> None:
        """Give everybody a password; the broker must run."""
        admin = KafkaAdminClient(
            bootstrap_servers=self.addresses()["kafka.brokers"],
            security_protocol="SSL",
            ssl_cafile=str(self.ca_file),
            ssl_certfile=str(self._own_file),
        )
        try:
            mechanism = ScramMechanism.SCRAM_SHA_512
            wanted = [UserScramCredentialUpsertion(user, mechanism, password_of(user)) for user in self._users]
            failed = {user: why for user, why in admin.alter_user_scram_credentials(wanted).items() if why}
            assert not failed, failed
        finally:
            admin.close()


def password_of(user: str) -> str:
    """Return a user's password."""
    return PASSWORD + user


def settings_of(broker: SecuredKafka, user: str, **different: object) -> KafkaSettings:
    """Return what a service is told that comes as `user`, as production demands it; some of it `different`."""
    told = {
        "http_address": "127.0.0.1:0",
        "kafka_brokers": broker.address,
        "kafka_tls": True,
        "kafka_ca_file": broker.ca_file,
        "kafka_user": user,
        "kafka_password": password_of(user),
    }
    return KafkaSettings(**(told | different))  # type: ignore[arg-type] # as an environment would
