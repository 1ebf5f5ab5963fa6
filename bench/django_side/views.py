"""Two views over `EmailDevice`: one sends a token, one verifies what was typed. Each is what its documentation shows.

The first answers the token, which a real site never does: here it stands for reading the mail.
"""

from __future__ import annotations

import hmac
import json

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

application = get_wsgi_application()

from django_otp.plugins.otp_email.models import EmailDevice  # noqa: E402 - models are there once Django is set up


def request_token(request: HttpRequest) -> HttpResponse:
    """Generate a challenge for a user's device, and mail it."""
    if not _is_known(request):
        return HttpResponse(status=401)
    device = EmailDevice.objects.get(user_id=json.loads(request.body)["user"], confirmed=True)
    message = device.generate_challenge()
    return JsonResponse({"message": message, "token": device.token})


def verify_token(request: HttpRequest) -> HttpResponse:
    """Verify a token with the device's throttling as shipped."""
    if not _is_known(request):
        return HttpResponse(status=401)
    typed = json.loads(request.body)
    device = EmailDevice.objects.get(user_id=typed["user"], confirmed=True)
    return JsonResponse({"verified": device.verify_token(typed["token"])})


def _is_known(request: HttpRequest) -> bool:
    return hmac.compare_digest(request.headers.get("Authorization", ""), f"Bearer {settings.SECRET_KEY}")


urlpatterns = [path("request", request_token), path("verify", verify_token)]
