"""Procedures: which states a dossier of a kind may pass through, and which moves mail a notice.

A procedure is data, a directed graph over the ten national states. Every dossier starts in `REGISTERED`; a state
without moves is an end. `problems` finds what a person who writes such a graph gets wrong: a state that nothing leads
to, and one from which no end can be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """The national status codes; the number is the code. "Late" is computed, never a state."""

    REGISTERED = 1
    ACCEPTED = 2
    REJECTED = 3
    IN_PROGRESS = 4
    PAPERS_NEEDED = 5
    PAYMENT_NEEDED = 6
    WITHDRAWN = 7
    STOPPED = 8
    DONE = 9
    HANDED_BACK = 10


@dataclass(frozen=True, slots=True)
class Name:
    """What people call something, in both languages."""

    vi: str
    en: str


STATE_NAMES: Mapping[State, Name] = {
    State.REGISTERED: Name("Mới đăng ký", "Registered"),
    State.ACCEPTED: Name("Được tiếp nhận", "Accepted"),
    State.REJECTED: Name("Không được tiếp nhận", "Not accepted"),
    State.IN_PROGRESS: Name("Đang xử lý", "In progress"),
    State.PAPERS_NEEDED: Name("Yêu cầu bổ sung giấy tờ", "More papers are needed"),
    State.PAYMENT_NEEDED: Name("Yêu cầu thực hiện nghĩa vụ tài chính", "A payment is needed"),
    State.WITHDRAWN: Name("Công dân yêu cầu rút hồ sơ", "Withdrawn by the citizen"),
    State.STOPPED: Name("Dừng xử lý", "Stopped"),
    State.DONE: Name("Đã xử lý xong", "Done"),
    State.HANDED_BACK: Name("Đã trả kết quả", "Result handed over"),
}


@dataclass(frozen=True, slots=True)
class Procedure:
    """One kind of dossier."""

    code: str
    """What callers name it by, such as `book-reissue`."""
    name: Name
    opening_mails: bool
    """Whether opening a dossier mails a notice."""
    moves: Mapping[State, Mapping[State, bool]]
    """From a state to those it may move to; the truth value tells whether that move mails a notice."""

    def allowed_from(self, state: State) -> tuple[State, ...]:
        """Return where a dossier may move from `state`, by rising code; empty at an end."""
        return tuple(sorted(self.moves.get(state, {})))

    def mails(self, start: State, to: State) -> bool:
        """Tell whether an allowed move mails a notice."""
        return self.moves[start][to]


def problems(procedure: Procedure) -> list[str]:
    """Return what is wrong with the graph, one sentence each; empty when it is sound."""
    found = [f"{state.name.lower()} leads to itself" for state, targets in procedure.moves.items() if state in targets]
    if any(State.REGISTERED in targets for targets in procedure.moves.values()):
        found.append("a move leads back to registered, where a dossier only starts")
    reached = _reached([State.REGISTERED], procedure.moves)
    found += [
        f"no way leads from registered to {state.name.lower()}" for state in procedure.moves if state not in reached
    ]
    found += [
        f"no way leads from {state.name.lower()} to an end"
        for state in sorted(reached)
        if all(procedure.allowed_from(on_the_way) for on_the_way in _reached([state], procedure.moves))
    ]
    return found


def _reached(start: Iterable[State], moves: Mapping[State, Mapping[State, bool]]) -> set[State]:
    reached: set[State] = set()
    ahead = list(start)
    while ahead:
        state = ahead.pop()
        if state not in reached:
            reached.add(state)
            ahead.extend(moves.get(state, {}))
    return reached
