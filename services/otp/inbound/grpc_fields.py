"""What a request's fields must be: all violations at once, in both languages, before anything is stored."""

from __future__ import annotations

from email_validator import EmailNotValidError, validate_email

from services.chassis.errors import FieldViolation, Kind, ServiceError, Words
from services.otp.rules.verdict import cleaned

MAX_KEY = 128
MAX_SUBJECT = 128
MAX_EMAIL_OCTETS = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
MAX_CONTEXT = 200
MAX_PURPOSE = 32
MAX_IP = 64  # the longest text form of an IPv6 address is 45 characters
LOCALES = frozenset({"", "vi", "en"})


class InvalidField(ServiceError):
    """The request can never succeed as it is."""

    kind = Kind.INVALID
    reason = "INVALID_FIELD"


class FieldChecks:
    """Collects violations; `done` raises them together."""

    def __init__(self) -> None:
        """Start with none."""
        self._violations: list[FieldViolation] = []

    def text(self, field: str, value: str, *, longest: int, required: bool = True) -> str:
        """Check a text of 1 (or 0) to `longest` characters without control characters."""
        if required and not value:
            self._add(field, "không được để trống", "must not be empty")
        elif len(value) > longest:
            self._add(field, f"không được dài quá {longest} ký tự", f"must have at most {longest} characters")
        elif any(ord(char) < 32 or ord(char) == 127 for char in value):
            self._add(field, "không được chứa ký tự điều khiển", "must not contain control characters")
        return value

    def email(self, field: str, value: str) -> str:
        """Check a mail address by its syntax (RFC 5321, 5322); return it with an A-label domain.

        A name beyond ASCII needs SMTPUTF8 (RFC 6531), which we do not speak: refused here, not promised and never sent.
        """
        if not value:
            self._add(field, "không được để trống", "must not be empty")
            return ""
        if len(value.encode()) > MAX_EMAIL_OCTETS:
            self._add(
                field, f"không được dài quá {MAX_EMAIL_OCTETS} byte", f"must have at most {MAX_EMAIL_OCTETS} octets"
            )
            return ""
        try:
            address = validate_email(value, check_deliverability=False, allow_smtputf8=False)
        except EmailNotValidError:
            self._add(
                field,
                "không phải địa chỉ thư hợp lệ, ví dụ đúng: lan@example.vn",
                "is not a mail address; a right one looks like lan@example.vn",
            )
            return ""
        return address.ascii_email or address.normalized

    def code(self, field: str, value: str, *, longest: int) -> str:
        """Check a typed code: digits, as people part them. What can never be a code costs no attempt."""
        digits = cleaned(value[:longest])
        if not value:
            self._add(field, "không được để trống", "must not be empty")
        elif len(value) > longest:
            self._add(field, f"không được dài quá {longest} ký tự", f"must have at most {longest} characters")
        elif not (digits.isascii() and digits.isdigit()):
            self._add(
                field,
                "phải là các chữ số trong thư; có thể có dấu cách hoặc gạch nối",
                "must be the digits of the mail; spaces and dashes do not matter",
            )
        return value

    def locale(self, field: str, value: str) -> str:
        """Check a language."""
        if value not in LOCALES:
            self._add(field, "phải là `vi`, `en` hoặc để trống", "must be `vi`, `en` or empty")
        return value

    def done(self) -> None:
        """Raise `InvalidField` if anything was wrong."""
        if self._violations:
            names = ", ".join(violation.field for violation in self._violations)
            raise InvalidField(
                Words(vi=f"Yêu cầu chưa hợp lệ, cần sửa: {names}.", en=f"The request is not valid; mend: {names}."),
                violations=self._violations,
            )

    def _add(self, field: str, vi: str, en: str) -> None:
        self._violations.append(FieldViolation(field, Words(vi=vi, en=en)))
