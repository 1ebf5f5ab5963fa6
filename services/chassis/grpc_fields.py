"""Checks the fields of a request and gathers every violation, so that a caller can mend all of them at once.

Lengths are checked first, so nothing long reaches a parser. Control characters are refused everywhere: they have no
meaning in a name or a key, PostgreSQL stores no NUL, and a line break in a name would be one in a mail header.
"""

from __future__ import annotations

import unicodedata

from email_validator import EmailNotValidError, validate_email

from services.chassis.errors import FieldViolation, Kind, ServiceError, Words

EMAIL_OCTETS = 254  # RFC 5321 §4.5.3.1.3 less the angle brackets
LOCALES = ("", "vi", "en")


class InvalidField(ServiceError):
    """At least one field breaks its rule; nothing was done."""

    kind = Kind.INVALID
    reason = "INVALID_FIELD"


class FieldChecks:
    """The violations of one request, as they are found. Each check returns the value to go on with."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def done(self) -> None:
        """End the checks.

        Raises:
            InvalidField: with every violation that was found.
        """
        if self._violations:
            names = ", ".join(violation.field for violation in self._violations)
            raise InvalidField(
                Words(vi=f"Yêu cầu chưa hợp lệ, cần sửa: {names}.", en=f"The request is not valid; mend: {names}."),
                violations=self._violations,
            )

    def violation(self, field: str, vi: str, en: str) -> None:
        """Note that a field breaks a rule; the words never quote the value."""
        self._violations.append(FieldViolation(field, Words(vi=vi, en=en)))

    def text(self, field: str, value: str, *, longest: int, shortest: int = 0, lines: bool = False) -> str:
        """Check the number of characters, and that there are no control characters (with `lines`: but line breaks)."""
        if not shortest <= len(value) <= longest or (shortest and not value.strip()):
            self.violation(
                field,
                f"phải có từ {shortest} đến {longest} ký tự",
                f"must have {shortest} to {longest} characters, not only spaces",
            )
        elif any(unicodedata.category(character) == "Cc" and not (lines and character == "\n") for character in value):
            self.violation(field, "không được chứa ký tự điều khiển", "must not contain control characters")
        return value

    def email(self, field: str, value: str) -> str:
        """Check a mail address by its syntax; return it with an ASCII domain, or nothing. No DNS is asked.

        A name beyond ASCII needs SMTPUTF8 (RFC 6531), which the mailer does not speak: refused here, not promised and
        never sent.
        """
        if not value or len(value.encode()) > EMAIL_OCTETS:
            self.violation(
                field, "phải là một địa chỉ thư, tối đa 254 byte", "must be a mail address of at most 254 octets"
            )
            return ""
        try:
            address = validate_email(value, check_deliverability=False, allow_smtputf8=False)
        except EmailNotValidError:
            self.violation(
                field,
                "không phải địa chỉ thư hợp lệ, ví dụ đúng: lan@example.vn",
                "is not a valid mail address; a valid one looks like lan@example.vn",
            )
            return ""
        return address.ascii_email or address.normalized

    def locale(self, field: str, value: str) -> str:
        """Check a language; empty leaves it to the service."""
        if value not in LOCALES:
            self.violation(field, "phải là vi hoặc en, hoặc để trống", "must be vi or en, or empty")
        return value
