"""What a run found, as numbers with their spread: median, lowest and highest of the repetitions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from bench.load import Phase, Seen

KINDS = ("requests", "verifications")
GOAL_RATIO = 2.0
GOAL_GUESS_MS = 1.0
GOAL_OCTETS = 1536.0  # 1.5 KiB


class Spread(msgspec.Struct, frozen=True):
    """One number, measured several times."""

    median: float
    lowest: float
    highest: float


class Kind(msgspec.Struct, frozen=True):
    """One kind of call on one side, over all repetitions."""

    per_second: Spread
    per_cpu_second: Spread
    """Of the service: one process of ours, all of gunicorn's."""
    per_cpu_second_with_store: Spread
    """And of Redis, or PostgreSQL."""
    per_cpu_second_with_all: Spread
    """And of Kafka's broker, where there is one."""
    cpu_us: dict[str, Spread]
    """CPU of each process for a call, microseconds; `generator` is the load's own."""
    busy: Spread
    """Share of its core that the service used: well below 1, something else was the limit of `per_second`."""
    p50_ms: Spread
    p99_ms: Spread
    calls: int
    """In all repetitions."""


class Level(msgspec.Struct, frozen=True):
    """Both sides at one number of calls in flight."""

    otp: dict[str, Kind]
    django: dict[str, Kind]
    ratios: dict[str, dict[str, Spread]]
    """Ours ÷ theirs in calls per CPU-second, repetition by repetition, each pair measured in the same minute."""


class GuessCost(msgspec.Struct, frozen=True):
    """A wrong code against two live generations."""

    cpu_ms: Spread
    """Of the otp process."""
    calls: int
    goal_ms: float = GOAL_GUESS_MS


class Memory(msgspec.Struct, frozen=True):
    """Redis memory of a live challenge, octets."""

    octets: float
    """Of `challenges` made through the store adapter."""
    challenges: int
    octets_by_calls: float
    """The same, of challenges that real calls made while stacks were sampled; half of them were verified."""
    goal_octets: float = GOAL_OCTETS


class Goal(msgspec.Struct, frozen=True):
    """What was promised, and what was measured."""

    what: str
    goal: float
    measured: float
    met: bool


class Report(msgspec.Struct, frozen=True):
    """Everything."""

    made_at: datetime
    size: dict[str, float]
    machine: dict[str, object]
    versions: dict[str, str | None]
    levels: dict[str, Level]
    """By calls in flight."""
    headline: int
    """The level where goals are judged."""
    without_mail: Level
    """The same at that level, with a Django mail backend that does nothing."""
    idle_cpu_share: dict[str, float]
    """Of a core, when nobody calls."""
    wrong_guess: GuessCost
    memory: Memory
    profile: dict[str, dict[str, dict[str, float]]]
    """Kind of call → part → share of the busy samples, and microseconds of a call."""
    goals: list[Goal]


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the extremes."""
    return Spread(statistics.median(values), min(values), max(values))


def level_of(ours: Sequence[Seen], theirs: Sequence[Seen]) -> Level:
    """Sum up both sides; repetition n of one is compared with repetition n of the other."""
    return Level(
        otp={kind: _kind(_phases(ours, kind)) for kind in KINDS},
        django={kind: _kind(_phases(theirs, kind)) for kind in KINDS},
        ratios={kind: _ratios(_phases(ours, kind), _phases(theirs, kind)) for kind in KINDS},
    )


def guess_cost(guesses: Sequence[Seen]) -> GuessCost:
    """Sum up what wrong codes cost."""
    phases = _phases(guesses, "verifications")
    return GuessCost(spread([_cpu_us(phase, "service") / 1000 for phase in phases]), sum(one.calls for one in phases))


def cost_shares(parts: Mapping[str, float], kind: str, usual: Sequence[Seen]) -> dict[str, dict[str, float]]:
    """Turn shares into microseconds of a call, as it costs when nobody samples."""
    cost = statistics.median(_cpu_us(phase, "service") for phase in _phases(usual, kind))
    return {part: {"share": share, "us": share * cost} for part, share in parts.items()}


def with_goals(report: Report) -> Report:
    """Judge: at the headline level, by medians."""
    level = report.levels[str(report.headline)]
    ratios = {kind: level.ratios[kind]["service"].median for kind in KINDS}
    goals = [
        *(
            Goal(f"{kind} per CPU-second, times django-otp's", GOAL_RATIO, ratio, ratio >= GOAL_RATIO)
            for kind, ratio in ratios.items()
        ),
        _at_most("CPU of a wrong guess, ms", report.wrong_guess.goal_ms, report.wrong_guess.cpu_ms.median),
        _at_most("Redis memory of a live challenge, octets", report.memory.goal_octets, report.memory.octets),
    ]
    return msgspec.structs.replace(report, goals=goals)


def _at_most(what: str, goal: float, measured: float) -> Goal:
    return Goal(what, goal, measured, measured <= goal)


def _phases(seen: Sequence[Seen], kind: str) -> list[Phase]:
    return [one.requests if kind == "requests" else one.verifications for one in seen]


def _kind(phases: Sequence[Phase]) -> Kind:
    return Kind(
        per_second=spread([phase.calls / phase.seconds for phase in phases]),
        per_cpu_second=spread([_per_cpu_second(phase) for phase in phases]),
        per_cpu_second_with_store=spread([_per_cpu_second(phase, "store") for phase in phases]),
        per_cpu_second_with_all=spread([_per_cpu_second(phase, "store", "kafka") for phase in phases]),
        cpu_us={name: spread([_cpu_us(phase, name) for phase in phases]) for name in phases[0].cpu_s},
        busy=spread([phase.cpu_s["service"] / phase.seconds for phase in phases]),
        p50_ms=spread([phase.p50_ms for phase in phases]),
        p99_ms=spread([phase.p99_ms for phase in phases]),
        calls=sum(phase.calls for phase in phases),
    )


def _ratios(ours: Sequence[Phase], theirs: Sequence[Phase]) -> dict[str, Spread]:
    def each(*beside: str) -> Spread:
        pairs = zip(ours, theirs, strict=True)
        return spread([_per_cpu_second(our, *beside) / _per_cpu_second(their, *beside) for our, their in pairs])

    return {"service": each(), "with_store": each("store"), "with_all": each("store", "kafka")}


def _per_cpu_second(phase: Phase, *beside: str) -> float:
    return phase.calls / sum(phase.cpu_s.get(name, 0.0) for name in ("service", *beside))


def _cpu_us(phase: Phase, name: str) -> float:
    return phase.cpu_s[name] / phase.calls * 1e6
