"""The fields that only dossier has: the id of one."""

from __future__ import annotations

import re

from services.chassis.grpc_fields import FieldChecks

UUID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class DossierFieldChecks(FieldChecks):
    """Adds the id."""

    def uuid(self, field: str, value: str) -> str:
        """Check an id that this service hands out."""
        if len(value) > len("00000000-0000-0000-0000-000000000000") or not UUID_PATTERN.fullmatch(value):
            self.violation(
                field,
                "phải là mã UUID mà OpenDossier đã trả về",
                "must be the UUID that OpenDossier answered, in lower case",
            )
        return value
