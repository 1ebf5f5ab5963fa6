"""Makes the tables, and users with an e-mail device each: `python -m bench.django_side.seed COUNT`."""

from __future__ import annotations

import sys

import django
from django.core.management import call_command


def main(users: int) -> None:
    """Migrate, then write users 1 to `users` and their devices; statistics are fresh afterwards."""
    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User  # noqa: PLC0415 - models are there once Django is set up
    from django.db import connection  # noqa: PLC0415
    from django_otp.plugins.otp_email.models import EmailDevice  # noqa: PLC0415

    numbers = range(1, users + 1)
    names = {number: f"citizen-{number}" for number in numbers}
    User.objects.bulk_create(
        [User(id=number, username=name, email=f"{name}@example.vn", password="!") for number, name in names.items()],  # noqa: S106 - nobody can log in
        batch_size=5_000,
    )
    EmailDevice.objects.bulk_create(
        [EmailDevice(user_id=number, name="mail", email=f"{name}@example.vn") for number, name in names.items()],
        batch_size=5_000,
    )
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


if __name__ == "__main__":
    main(int(sys.argv[1]))
