"""A throw-away Postfix that relays every mail to a next hop on loopback, and defers and bounces for real.

It never leaves the machine: no DNS, no local delivery, only the routes it is given. Its timers are seconds instead of
hours. It needs root (Postfix's parts change users) and Debian's package. The master is run directly: `postfix start-fg`
would leave it behind when its starter is killed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from deploy.dev.server_process import ServerProcess
from deploy.dev.temporary_home import TemporaryHome

DAEMONS = Path("/usr/lib/postfix/sbin")
CHECK_WITHIN_S = 30

SETTINGS = {
    "compatibility_level": "3.6",
    "command_directory": "/usr/sbin",
    "daemon_directory": str(DAEMONS),
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "maillog_file": "/dev/stdout",
    "myhostname": "relay.test",
    # Nothing is delivered here, nothing is looked up, nothing leaves the machine.
    "mydestination": "",
    "local_recipient_maps": "",
    "local_transport": "error:no local mail",
    "alias_maps": "",
    "alias_database": "",
    "relayhost": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "smtp_host_lookup": "native",
    "disable_dns_lookups": "yes",
    "smtp_tls_security_level": "none",
    "smtpd_tls_security_level": "none",
    "biff": "no",
    "notify_classes": "",
    # A test or a demo sees in seconds what takes a real relay hours.
    "queue_run_delay": "2s",
    "minimal_backoff_time": "2s",
    "maximal_backoff_time": "4s",
    "maximal_queue_lifetime": "20s",
    "bounce_queue_lifetime": "20s",
    "delay_warning_time": "1s",
    "smtp_connect_timeout": "3s",
    "smtp_helo_timeout": "5s",
    # No slowing down of a sender, no giving up on a next hop that failed.
    "in_flow_delay": "0",
    "smtp_destination_concurrency_failed_cohort_limit": "0",
    "enable_long_queue_ids": "yes",
}

# Postfix's own parts: name, kind, privileged, wakes up, how many, program (master(5)).
PARTS = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def why_missing() -> str | None:
    """Say how to get it, when it is not there."""
    if not (DAEMONS / "master").exists():
        return "Postfix is not installed. Debian: apt-get install --no-install-recommends postfix"
    if os.geteuid() != 0:
        return "Postfix needs root: run this with sudo"
    return None


class PostfixRelay(ServerProcess):
    """A relay; its log (`log_text()`) is Postfix's own; `remove` deletes it with its queue.

    Args:
        next_hop: `host:port` that every mail goes to.
        routes: `host:port` by recipient domain, before the next hop.
        settings: more lines of main.cf.
        log_file: where Postfix's own log goes, if not among what it writes.
    """

    def __init__(
        self,
        next_hop: str,
        *,
        routes: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        log_file: Path | None = None,
    ) -> None:
        self._home = TemporaryHome(None)
        super().__init__("postfix", self._home.path / "postfix.log", {"smtp": port})
        self._settings = _routed(next_hop, routes or {}) | dict(settings or {})
        self._log_file = log_file
        if log_file is not None:
            self._settings |= {"maillog_file": str(log_file), "maillog_file_prefixes": str(log_file.parent)}

    @property
    def address(self) -> str:
        """Host and port that takes mails."""
        return self.addresses()["smtp"]

    def prepare(self) -> None:
        """Write its configuration; let Postfix check it and make its queue."""
        home = self._home.path
        for name in ("etc", "queue", "data"):
            (home / name).mkdir(exist_ok=True)
        shutil.chown(home / "data", "postfix")
        places = {"queue_directory": str(home / "queue"), "data_directory": str(home / "data")}
        lines = [f"{name} = {value}\n" for name, value in (SETTINGS | places | self._settings).items()]
        (home / "etc" / "main.cf").write_text("".join(lines))
        (home / "etc" / "master.cf").write_text(PARTS.format(port=self.port("smtp")))
        check = ["/usr/sbin/postfix", "-c", str(home / "etc"), "check"]
        subprocess.run(check, capture_output=True, timeout=CHECK_WITHIN_S, check=True)

    def command(self) -> list[str]:
        """Run the master in the foreground."""
        return [str(DAEMONS / "master"), "-s", "-c", str(self._home.path / "etc")]

    def is_ready(self) -> bool:
        """Read its greeting."""
        try:
            with socket.create_connection(("127.0.0.1", self.port("smtp")), timeout=0.8) as connection:
                return connection.recv(64).startswith(b"220 ")
        except OSError:
            return False

    def rotate_log(self, to: Path) -> None:
        """Give the log file another name, and let Postfix open a new one, as `postfix logrotate` does."""
        if self._log_file is None:
            raise ValueError("its log is no file of its own")
        self._log_file.rename(to)
        reload = ["/usr/sbin/postfix", "-c", str(self._home.path / "etc"), "reload"]
        subprocess.run(reload, capture_output=True, timeout=CHECK_WITHIN_S, check=True)

    def remove(self) -> None:
        """Stop it and delete its queue."""
        self.stop()
        self._home.remove()


def _routed(next_hop: str, routes: Mapping[str, str]) -> dict[str, str]:
    lines = [f"{{ {domain} = smtp:{_hop(address)} }}" for domain, address in routes.items()]
    return {
        "default_transport": f"smtp:{_hop(next_hop)}",
        "transport_maps": f"inline:{{ {', '.join(lines)} }}" if lines else "",
    }


def _hop(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"[{host}]:{port}"
