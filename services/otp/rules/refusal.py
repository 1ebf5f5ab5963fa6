"""What is told to who gets no letter now: how long to wait, and whom to phone when that is too late."""

from __future__ import annotations

import math
from datetime import timedelta

from services.chassis.errors import Kind, ServiceError, Words
from services.otp.rules.policy import Purpose
from services.otp.rules.quota import NoRoom


class NotAdmitted(ServiceError):
    """One more letter is not made now; of two kinds, with words of their own."""

    kind = Kind.EXHAUSTED
    why: Words

    def __init__(self, refused: NoRoom, purpose: Purpose) -> None:
        """Say when to come back, and whom to phone when that is too late."""
        vi, en = _in_words(refused.retry_after)
        phone = purpose.hotline.phone if purpose.hotline else ""
        or_phone_vi, or_phone_en = phone and f" Nếu gấp, gọi {phone}.", phone and f" If it is urgent, phone {phone}."
        super().__init__(
            Words(
                vi=f"{self.why.vi} Vui lòng thử lại sau {vi}.{or_phone_vi}",
                en=f"{self.why.en} Ask again in {en}.{or_phone_en}",
            ),
            retry_after=refused.retry_after,
            exceeded=refused.dimensions,
        )


class LimitReached(NotAdmitted):
    """A limit on letters has no room; which is in `exceeded`, for those who may see it."""

    reason = "QUOTA_EXCEEDED"
    why = Words(vi="Đã có quá nhiều thư được yêu cầu.", en="Too many mails were asked for.")


class Overloaded(NotAdmitted):
    """The queue is as long as people wait: the letter would come too late."""

    reason = "OVERLOADED"
    why = Words(
        vi="Hiện có rất nhiều người yêu cầu mã; thư gửi bây giờ sẽ đến quá muộn.",
        en="So many people ask now that a mail would come too late.",
    )


def not_admitted(refused: NoRoom, purpose: Purpose) -> NotAdmitted:
    """Return the refusal for a caller."""
    return (Overloaded if refused.is_overload else LimitReached)(refused, purpose)


def _in_words(wait: timedelta) -> tuple[str, str]:
    """Return how long that is, in Vietnamese and in English; rounded up, minutes from two of them on."""
    seconds = max(math.ceil(wait.total_seconds()), 1)
    if seconds <= 120:
        return f"{seconds} giây", f"{seconds} seconds"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} phút", f"{minutes} minutes"
