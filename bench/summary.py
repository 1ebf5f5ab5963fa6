"""The summary that a run prints: a table for people, made of the report and of nothing else."""

from __future__ import annotations

from bench.report import KINDS, Kind, Level, Report, Spread
from deploy.dev.terminal import Terminal

PARTS_SHOWN = 12


def print_summary(report: Report, terminal: Terminal) -> None:
    """Print it."""
    terminal.line(
        f"\nMedian of {report.size['repetitions']:g} repetitions (lowest to highest). CPU-s: of the service only."
    )
    for number, level in report.levels.items():
        _print_level(f"{number} in flight", level, terminal)
    _print_level(f"{report.headline} in flight, Django mails nowhere", report.without_mail, terminal)
    guess, memory = report.wrong_guess, report.memory
    idle = ", ".join(f"{side} {share:.1%}" for side, share in report.idle_cpu_share.items())
    terminal.line(f"\nof a core when nobody calls: {idle}")
    terminal.line(f"wrong guess, two live codes: {_spread(guess.cpu_ms, '.2f')} ms of CPU")
    terminal.line(
        f"Redis memory of a live challenge: {memory.octets:.0f} octets ({memory.challenges} through the adapter), "
        f"{memory.octets_by_calls:.0f} (by real calls)"
    )
    for kind in KINDS:
        _print_parts(kind, report.profile.get(kind, {}), terminal)
    terminal.line("\nGoals")
    for goal in report.goals:
        terminal.line(f"  {'met   ' if goal.met else 'MISSED'}  {goal.what}: {goal.measured:.2f} (goal {goal.goal:g})")


def _print_level(title: str, level: Level, terminal: Terminal) -> None:
    terminal.line(f"\n{title:<48} {'calls/s':>22} {'calls/CPU-s':>22} {'p50 ms':>8} {'p99 ms':>8} {'busy':>5}")
    for kind in KINDS:
        for side, found in (("otp", level.otp[kind]), ("django-otp", level.django[kind])):
            terminal.line(f"  {f'{side}: {kind}':<46} {_row(found)}")
        ratio = level.ratios[kind]
        told = ", ".join(f"{_spread(value, '.2f')} {name.replace('_', ' ')}" for name, value in ratio.items())
        terminal.line(f"    ratio: {told}")


def _row(kind: Kind) -> str:
    return (
        f"{_spread(kind.per_second, '.0f'):>22} {_spread(kind.per_cpu_second, '.0f'):>22} "
        f"{kind.p50_ms.median:>8.1f} {kind.p99_ms.median:>8.1f} {kind.busy.median:>5.2f}"
    )


def _print_parts(kind: str, parts: dict[str, dict[str, float]], terminal: Terminal) -> None:
    if not parts:
        terminal.line(f"\n{kind}: stacks could not be sampled (it takes root, or kernel.yama.ptrace_scope=0)")
        return
    terminal.line(f"\n{kind}: where the CPU of a call goes")
    for part, cost in list(parts.items())[:PARTS_SHOWN]:
        terminal.line(f"  {cost['us']:>6.0f} µs {cost['share']:>6.1%}  {part}")


def _spread(value: Spread, form: str) -> str:
    return f"{value.median:{form}} ({value.lowest:{form}}-{value.highest:{form}})"
