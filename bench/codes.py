"""What a code costs: `python -m bench.codes`. Writes `.kip/bench/codes.json` and prints a summary; README.md explains.

Nothing here fails because something was slow: it measures, and says beside each number what it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.cpu import cpu_seconds
from bench.django_side.server import DjangoUnderLoad
from bench.environment import CHECKOUT, make_environment
from bench.load import WARM_UP_S, Plan, Seen
from bench.machine import machine, versions
from bench.otp_side import OtpUnderLoad, generate
from bench.report import Memory, Report, cost_shares, guess_cost, level_of, with_goals
from bench.sampling import shares
from bench.store_records import octets_per_challenge, server_version, used_octets
from bench.summary import print_summary
from deploy.dev.problem import LaptopProblem, told_in_words
from deploy.dev.terminal import Terminal
from tests.servers.postgresql_server import why_missing

FOLDER = CHECKOUT / ".kip" / "bench"
IN_FLIGHT = (1, 16, 64)
HEADLINE = 16  # calls in flight where goals are judged, and stacks sampled
PER_SECOND = 1_000  # more than either side answers on one core; each Django call needs a user of its own


class Size(msgspec.Struct, frozen=True):
    """How long a run is."""

    repetitions: int
    seconds: float
    """Of each phase, at most: asking, then typing what was asked for."""
    sampled_s: float
    """Of each phase while stacks are sampled."""
    live: int
    """Challenges whose memory is measured."""

    @property
    def users(self) -> int:
        """How many people the Django side must have."""
        plans = self.repetitions * (len(IN_FLIGHT) + 1)
        return int(plans * (self.seconds + WARM_UP_S) * PER_SECOND) + 1


FULL = Size(repetitions=3, seconds=3.5, sampled_s=10, live=100_000)
QUICK = Size(repetitions=1, seconds=2, sampled_s=4, live=10_000)


class Run:
    """One run of everything, on two sides that are up."""

    def __init__(self, otp: OtpUnderLoad, django: DjangoUnderLoad, size: Size, terminal: Terminal) -> None:
        self._otp = otp
        self._django = django
        self._size = size
        self._terminal = terminal
        self._next = {"otp": 1, "django": 1}  # number of the next person who has never asked

    def measure(self) -> Report:
        """Measure; sides take turns, so that what else the machine does meanwhile falls on both."""
        before, idle = machine(), self._idle()
        ours: dict[int, list[Seen]] = {level: [] for level in IN_FLIGHT}
        theirs: dict[int, list[Seen]] = {level: [] for level in IN_FLIGHT}
        guesses: list[Seen] = []
        for repetition in range(self._size.repetitions):
            self._terminal.line(f"repetition {repetition + 1} of {self._size.repetitions}")
            for level in IN_FLIGHT:
                ours[level].append(self._ours(level))
                theirs[level].append(self._theirs(level))
            guesses.append(self._ours(HEADLINE, guess=True))
        self._terminal.line("django-otp once more, with a mail backend that does nothing")
        self._django.mail_nowhere()
        unmailed = [self._theirs(HEADLINE) for _ in range(self._size.repetitions)]
        self._terminal.line("stacks of otp")
        profile, by_calls = self._sampled(ours[HEADLINE])
        self._terminal.line(f"memory of {self._size.live} challenges")
        by_adapter = asyncio.run(octets_per_challenge(self._otp.redis_url, self._size.live))
        return Report(
            made_at=datetime.now(UTC),
            size=msgspec.to_builtins(self._size),
            machine=before,
            versions=versions(asyncio.run(server_version(self._otp.redis_url))),
            levels={str(level): level_of(ours[level], theirs[level]) for level in IN_FLIGHT},
            headline=HEADLINE,
            without_mail=level_of(ours[HEADLINE], unmailed),
            idle_cpu_share=idle,
            wrong_guess=guess_cost(guesses),
            memory=Memory(by_adapter, self._size.live, by_calls),
            profile=profile,
            goals=[],
        )

    def _idle(self) -> dict[str, float]:
        """Return which share of a core each side uses when nobody calls: under few calls it weighs on each of them."""
        pids = {"otp": self._otp.pid, "django": self._django.pid}
        before = {side: cpu_seconds(pid) for side, pid in pids.items()}
        time.sleep(self._size.seconds)
        return {side: (cpu_seconds(pid) - before[side]) / self._size.seconds for side, pid in pids.items()}

    def _ours(self, level: int, *, guess: bool = False) -> Seen:
        plan = self._otp.plan(level, self._size.seconds, self._next["otp"], guess=guess)
        return self._generated(plan)

    def _theirs(self, level: int) -> Seen:
        return self._generated(self._django.plan(level, self._size.seconds, self._next["django"]))

    def _generated(self, plan: Plan) -> Seen:
        seen = generate(plan)
        self._next[plan.side] = seen.next_person
        return seen

    def _sampled(self, usual: Sequence[Seen]) -> tuple[dict[str, dict[str, dict[str, float]]], float]:
        """Return the parts of a call, and the octets of Redis memory that each real call left."""
        before, first = asyncio.run(used_octets(self._otp.redis_url)), self._next["otp"]
        with tempfile.TemporaryDirectory() as samples:
            plan = self._otp.plan(HEADLINE, self._size.sampled_s, first)
            self._generated(msgspec.structs.replace(plan, samples_in=samples))
            parts = {file.stem: shares(file.read_text().splitlines()) for file in sorted(Path(samples).glob("*.txt"))}
        grown = asyncio.run(used_octets(self._otp.redis_url)) - before
        costs = {kind: cost_shares(found, kind, usual) for kind, found in parts.items()}
        return costs, grown / (self._next["otp"] - first)


def bench(size: Size, output: Path) -> int:
    """Run everything, write the report, print the summary; return the exit code.

    Raises:
        LaptopProblem: what is missing and how to get it.
    """
    if missing := why_missing():
        raise LaptopProblem(missing)
    terminal, started = Terminal(sys.stdout), time.monotonic()
    make_environment()
    directory = FOLDER / "run"
    shutil.rmtree(directory, ignore_errors=True)
    with OtpUnderLoad(directory, terminal) as otp, DjangoUnderLoad(directory, size.users) as django:
        report = with_goals(Run(otp, django, size, terminal).measure())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    print_summary(report, terminal)
    terminal.line(f"\n{output} was written after {time.monotonic() - started:.0f} s.")
    return 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.codes", description="What a code costs.")
    parser.add_argument("--quick", action="store_true", help="short phases and few records: to see that it runs")
    parser.add_argument("--output", type=Path, default=FOLDER / "codes.json")
    asked = parser.parse_args()
    return told_in_words(lambda: bench(QUICK if asked.quick else FULL, asked.output))


if __name__ == "__main__":
    sys.exit(main())
