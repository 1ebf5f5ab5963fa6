"""Django's settings: what is named here is what `django-otp` asks for, or makes Django faster. The rest is as shipped.

No middleware, no session, no template of our own, connections to PostgreSQL that stay open: less work for each request
than in any site that people log in to.
"""

from __future__ import annotations

import os

_host, _, _port = os.environ["BENCH_POSTGRESQL"].partition(":")

DEBUG = False
SECRET_KEY = os.environ["BENCH_TOKEN"]
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "bench.django_side.views"
WSGI_APPLICATION = "bench.django_side.views.application"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django_otp",
    "django_otp.plugins.otp_email",
]
MIDDLEWARE: list[str] = []
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _host,
        "PORT": _port,
        "USER": os.environ["BENCH_POSTGRESQL_USER"],
        "NAME": "postgres",
        "CONN_MAX_AGE": None,
    }
}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
EMAIL_BACKEND = os.environ["BENCH_EMAIL_BACKEND"]
OTP_EMAIL_SENDER = "bench@example.vn"
