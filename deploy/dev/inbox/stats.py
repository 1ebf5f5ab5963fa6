"""Counts since the start, so that a fault test can assert that its fault happened."""

from __future__ import annotations

from collections import Counter

from deploy.dev.inbox.behaviour import Action, Stage


class Stats:
    """Counted by the SMTP side, read by the API."""

    def __init__(self) -> None:
        self.connections = 0
        self.open_connections = 0
        self.accepted = 0  # mails whose last reply was 2xx
        self.stored = 0  # mails kept, also those whose client was told otherwise
        self._faults: Counter[tuple[Action, Stage]] = Counter()

    def count_fault(self, action: Action, stage: Stage) -> None:
        """Count that a rule acted."""
        self._faults[action, stage] += 1

    def as_json(self) -> dict[str, object]:
        """Return every count; `faults` has each action with its count per stage, zeros included."""
        return {
            "connections": self.connections,
            "open_connections": self.open_connections,
            "accepted": self.accepted,
            "stored": self.stored,
            "refused": self._by_stage(Action.REPLY),
            "delayed": self._by_stage(Action.DELAY),
            "cut": self._by_stage(Action.CUT),
            "half_line": self._by_stage(Action.HALF_LINE),
            "double_reply": self._by_stage(Action.DOUBLE_REPLY),
        }

    def _by_stage(self, action: Action) -> dict[str, int]:
        return {stage: self._faults[action, stage] for stage in Stage}
