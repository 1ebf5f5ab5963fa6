"""The fields that only otp has: a typed code."""

from __future__ import annotations

from services.chassis.grpc_fields import FieldChecks
from services.otp.rules.verdict import cleaned

MAX_KEY = 128
MAX_SUBJECT = 128
MAX_CONTEXT = 200
MAX_PURPOSE = 32
MAX_IP = 64  # the longest text form of an IPv6 address is 45 characters


class OtpFieldChecks(FieldChecks):
    """Adds the typed code."""

    def code(self, field: str, value: str, *, longest: int) -> str:
        """Check a typed code: digits, as people part them. What can never be a code costs no attempt."""
        digits = cleaned(value[:longest])
        if not 1 <= len(value) <= longest:
            self.violation(field, f"phải có từ 1 đến {longest} ký tự", f"must have 1 to {longest} characters")
        elif not (digits.isascii() and digits.isdigit()):
            self.violation(
                field,
                "phải là các chữ số trong thư; có thể có dấu cách hoặc gạch nối",
                "must be the digits of the mail; spaces and dashes do not matter",
            )
        return value
