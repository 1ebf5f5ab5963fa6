"""`python -m tests.chaos.run --runs 20`: the ordered inbox and the mailer under kills, again and again, a line a run.

After the runs one more of the mailer, without its ledger, must break the bound that the others kept. `--proof FOLDER`
writes what was seen to `chaos.json` and, for people, `chaos.md`. The integration tests make smaller runs of the same
code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from tests.chaos.inbox import InboxReport, inbox_chaos
from tests.chaos.mailer import MailerChaos, MailerReport, Plan

R = TypeVar("R", InboxReport, MailerReport)

INBOX_RECORDS, INBOX_RATE, INBOX_ROUNDS = 6_000, 300.0, 4


def main() -> int:
    """Make the runs; exit 1 when one broke a promise, or when the run without a ledger broke none."""
    parser = argparse.ArgumentParser(description="The ordered inbox and the mailer under kills.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--letters", type=int, default=Plan().letters, help="of each run of the mailer")
    parser.add_argument("--only", choices=("inbox", "mailer"))
    parser.add_argument("--proof", type=Path, help="folder of the summary")
    chosen = parser.parse_args()
    plan = Plan(letters=chosen.letters)
    inboxes = [] if chosen.only == "mailer" else [_run("inbox", number, _inbox) for number in range(1, chosen.runs + 1)]
    mailers: list[MailerReport] = []
    without: MailerReport | None = None
    if chosen.only != "inbox":
        mailers = [_run("mailer", number, _mailer(plan)) for number in range(1, chosen.runs + 1)]
        without = _run("mailer without its ledger", 1, _mailer(replace(plan, ledger=False)))
    reports: list[InboxReport | MailerReport] = [*inboxes, *mailers]
    good = sum(report.is_good for report in reports)
    print(f"chaos: {good} of {len(reports)} runs without a loss and within their bounds")
    if chosen.proof is not None:
        _write_proof(chosen.proof, inboxes, mailers, without)
    return 0 if good == len(reports) and not (without and without.is_bounded) else 1


def _run(what: str, number: int, live: Callable[[Path], R]) -> R:
    with tempfile.TemporaryDirectory(prefix="kip-chaos-") as folder:
        report = live(Path(folder))
    print(f"{what} {number}: {'good' if report.is_good else 'BAD '} {json.dumps(asdict(report))}", flush=True)
    return report


def _inbox(folder: Path) -> InboxReport:
    return asyncio.run(inbox_chaos(folder, records=INBOX_RECORDS, rate=INBOX_RATE, rounds=INBOX_ROUNDS))


def _mailer(plan: Plan) -> Callable[[Path], MailerReport]:
    return lambda folder: MailerChaos(folder, plan)()


def _write_proof(
    folder: Path, inboxes: Sequence[InboxReport], mailers: Sequence[MailerReport], without: MailerReport | None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seen = {
        "cores": os.cpu_count(),
        "inbox": list(map(asdict, inboxes)),
        "mailer": list(map(asdict, mailers)),
        "mailer_without_its_ledger": asdict(without) if without else None,
    }
    (folder / "chaos.json").write_text(json.dumps(seen, indent=1) + "\n")
    lines = [
        "# Chaos: processes and a broker that die while letters flow",
        "",
        f"Written by `make chaos RUNS={max(len(inboxes), len(mailers))} PROOF=docs/proof` on {os.cpu_count()} cores.",
        "Every number is in [chaos.json](chaos.json).",
        "",
        "| run | records or letters | killed, stopped, broker | lost | repeated | bound | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            _row(f"inbox {number}", it, (it.records, it.lost, it.repeated, it.bound, it.seconds))
            for number, it in enumerate(inboxes, 1)
        ),
        *(_row(f"mailer {number}", it, _numbers(it)) for number, it in enumerate(mailers, 1)),
    ]
    if without:
        lines += [
            _row("mailer without its ledger", without, _numbers(without)),
            "",
            "The bound of the inbox is a window per partition and disruption. That of the mailer is the letters in",
            "`handing_over` at the kills, and the calls that the ledger missed on a busy machine. The last run must",
            "break its bound: it shows that the bound of the others can be broken.",
        ]
    (folder / "chaos.md").write_text("\n".join(lines) + "\n")


def _numbers(report: MailerReport) -> tuple[object, ...]:
    bound = f"{report.handing_over} + {report.ledger_missed}"
    return (report.letters, report.lost, report.beyond, bound, report.seconds)


def _row(name: str, report: InboxReport | MailerReport, numbers: tuple[object, ...]) -> str:
    count, *rest = numbers
    died = f"{report.killed}, {report.terminated}, {report.broker_killed}"
    return f"| {name} | {count} | {died} | {' | '.join(map(str, rest))} |"


if __name__ == "__main__":
    sys.exit(main())
