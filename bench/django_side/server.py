"""gunicorn with django-otp's views, on a PostgreSQL of its own; runs in our environment and starts the venv's programs.

Workers: `(2 × cores) + 1`, as gunicorn's documentation recommends, on one core. The worker class is `gthread`, the one
of gunicorn's own that keeps connections open. PostgreSQL syncs to disk, but does not make a commit wait for it
(`synchronous_commit = off`): what a power cut may take is then under a second, as with Redis's file on our side.
"""

from __future__ import annotations

import http.client
import os
import secrets
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.cpu import own_cores, pin
from bench.environment import CHECKOUT, bench_program
from bench.load import Plan
from deploy.dev.server_process import ServerProcess
from tests.servers import postgresql_server

WORKERS = 2 * 1 + 1
THREADS = 2
SEED_WITHIN_S = 120
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
DUMMY = "django.core.mail.backends.dummy.EmailBackend"


class DurablePostgresql(postgresql_server.PostgresqlServer):
    """The tests' PostgreSQL, but syncing."""

    def command(self) -> list[str]:
        """Override what the tests switch off; the last word wins."""
        return [*super().command(), "-c", "fsync=on", "-c", "synchronous_commit=off"]


class Gunicorn(ServerProcess):
    """The views, served."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        super().__init__("gunicorn", log, {"gunicorn": None})
        self._environment = environment

    def command(self) -> list[str]:
        """Run gunicorn without an access log, which is how it is shipped."""
        options = ["--workers", str(WORKERS), "--worker-class", "gthread", "--threads", str(THREADS)]
        address = self.addresses()["gunicorn"]
        program = bench_program("gunicorn")
        return [program, "--bind", address, *options, "--keep-alive", "60", "bench.django_side.views:application"]

    def environment(self) -> dict[str, str]:
        """Return the launcher's, with ours on top."""
        return os.environ | self._environment

    def working_directory(self) -> Path:
        """Run where `bench` is found."""
        return CHECKOUT

    def is_ready(self) -> bool:
        """Ask a view without a token: it refuses."""
        page = http.client.HTTPConnection("127.0.0.1", self.port("gunicorn"), timeout=0.8)
        try:
            page.request("POST", "/verify", b"{}")
            return page.getresponse().status == http.HTTPStatus.UNAUTHORIZED
        except (OSError, http.client.HTTPException):
            return False
        finally:
            page.close()


class DjangoUnderLoad:
    """A context manager that leaves nothing running.

    Args:
        directory: of logs.
        users: how many people there are; each may ask once.
    """

    def __init__(self, directory: Path, users: int) -> None:
        self._log = directory / "gunicorn.log"
        self._users = users
        self._database = DurablePostgresql()
        self._environment = {
            "BENCH_POSTGRESQL": self._database.addresses()["postgresql"],
            "BENCH_POSTGRESQL_USER": postgresql_server.USER,
            "BENCH_TOKEN": secrets.token_urlsafe(32),
            "DJANGO_SETTINGS_MODULE": "bench.django_side.settings",
            "PYTHONPATH": str(CHECKOUT),
        }
        self._site = self._served(LOCMEM)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.callback(self._database.remove)
            self._database.start()
            self._seed()
            pin(self._database.pid, own_cores(service=False))
            self._start_site()
            starting.callback(self._stop_site)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.close()

    @property
    def pid(self) -> int:
        """Of gunicorn's master; its workers are its children."""
        return self._site.pid

    def mail_nowhere(self) -> None:
        """Serve anew, with the mail backend that does nothing at all."""
        self._site.stop()
        self._site = self._served(DUMMY)
        self._start_site()

    def plan(self, in_flight: int, seconds: float, first_person: int) -> Plan:
        """Return what a generator is to do."""
        return Plan(
            side="django",
            address=self._site.addresses()["gunicorn"],
            token=self._environment["BENCH_TOKEN"],
            in_flight=in_flight,
            seconds=seconds,
            first_person=max(first_person, 1),  # as numbers of rows are
            watched={"service": self._site.pid, "store": self._database.pid},
            cores=own_cores(service=False),
        )

    def _served(self, email_backend: str) -> Gunicorn:
        return Gunicorn(self._log, self._environment | {"BENCH_EMAIL_BACKEND": email_backend})

    def _start_site(self) -> None:
        self._site.start()
        pin(self._site.pid, own_cores(service=True))

    def _stop_site(self) -> None:
        self._site.stop()  # whichever it is by then

    def _seed(self) -> None:
        subprocess.run(
            [bench_program("python"), "-m", "bench.django_side.seed", str(self._users)],
            env=os.environ | self._environment | {"BENCH_EMAIL_BACKEND": LOCMEM},
            cwd=CHECKOUT,
            timeout=SEED_WITHIN_S,
            check=True,
        )
