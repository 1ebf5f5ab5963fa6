"""The fields that only otp has: a typed code, a handle, an idempotency key, where the citizen sits."""

from __future__ import annotations

from services.chassis.grpc_fields import FieldChecks
from services.otp.rules.address import network_of
from services.otp.rules.verdict import cleaned

MAX_KEY = 128
MAX_SUBJECT = 128
MAX_CONTEXT = 200
MAX_PURPOSE = 32
MAX_REASON = 200
MAX_IP = 64  # the longest text form of an IPv6 address is 45 characters
MAX_CODE = 64  # characters of a typed code, spaces and dashes included
MAX_HANDLE = 128


class OtpFieldChecks(FieldChecks):
    """Adds what only otp has."""

    def handle(self, field: str, value: str) -> str:
        """Check a handle; whether it opens anything is not a matter of form."""
        return self.text(field, value, shortest=1, longest=MAX_HANDLE)

    def key(self, field: str, value: str, *, shortest: int = 1) -> str:
        """Check an idempotency key."""
        return self.text(field, value, shortest=shortest, longest=MAX_KEY)

    def client(self, field: str, ip: str, device_id: str) -> str:
        """Check where the citizen sits, as the caller saw it; return the network, empty when it does not tell."""
        network = ""
        try:
            network = network_of(ip[: MAX_IP + 1]) if ip else ""
        except ValueError:
            self.violation(
                f"{field}.ip",
                "phải là địa chỉ IPv4 hoặc IPv6, hoặc để trống",
                "must be an IPv4 or IPv6 address, or empty",
            )
        self.text(f"{field}.device_id", device_id, longest=MAX_SUBJECT)
        return network

    def code(self, field: str, value: str) -> str:
        """Check a typed code: digits, as people part them. What can never be a code costs no attempt."""
        digits = cleaned(value[:MAX_CODE])
        if not 1 <= len(value) <= MAX_CODE:
            self.violation(field, f"phải có từ 1 đến {MAX_CODE} ký tự", f"must have 1 to {MAX_CODE} characters")
        elif not (digits.isascii() and digits.isdigit()):
            self.violation(
                field,
                "phải là các chữ số trong thư; có thể có dấu cách hoặc gạch nối",
                "must be the digits of the mail; spaces and dashes do not matter",
            )
        return value
