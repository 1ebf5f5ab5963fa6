"""`python -m tests.surge.run`: three surges on the real stack, each looked at every few seconds, then judged.

`--proof FOLDER` writes what was seen, of all runs, to `surge.json`, `surge.md` and a picture of the last run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.e2e.alarms import HURRY
from tests.surge.judge import DYING, OFFERED, REFUSED, SLOW, WILL_DIE, Figures, broken, figures_of
from tests.surge.picture import picture_of
from tests.surge.play import HEADING, Seen, played
from tests.surge.profiles import CAPACITY, DEADLINE_S, FACTOR, PATIENCE_S, PRESS_AFTER_S, PROFILES, Profile

COLUMNS = (
    "run",
    "came",
    "let in",
    "mails",
    "through, of everyone",
    "of the admitted",
    f"of everyone, {PATIENCE_S} s after coming",
    "dead",
    "refused people",
    "came back, let in then",
    "told, s",
    "p95, s (fluid)",
    "relay used",
)
ORDER = (f"first {OFFERED}", *(f"first {sign}" for sign in (SLOW, WILL_DIE, REFUSED, DYING)))
ENDS = (f"last {REFUSED}", f"last {SLOW}")
_ABOUT = f"""\
Written by `make demo-surge RUNS={{runs}} PROOF=docs/proof` on {{cores}} cores: Kafka, Redis, all services, Prometheus,
Alertmanager, and a relay that takes {CAPACITY:g} letters a second. {FACTOR * CAPACITY:g} people come a second, whatever
becomes of those before them; 70 % press again after {PRESS_AFTER_S:g} s, twice; who is refused comes back when told to,
within {PATIENCE_S} s of coming; who is let in waits as long for the mail, and types the code as it comes. Every time is
one of the policy, of the rules or of an office's advice, divided by {HURRY} by configuration only: a code may wait for
{DEADLINE_S} s. The axes of the picture count minutes of the real thing.
Every number: [surge.json](surge.json)."""
_READING = """\
* *Through* is who typed a code that was right, as soon as it came. Both shares are told: of the admitted, and of
  everyone who came. Who is let in when coming back waits as long again; so fewer have a code one patience after they
  came.
* (a) Nobody is refused: five minutes at three times the capacity make a wait of ten, and the ramp begins at ten and a
  half. `OtpCodesWillDie` is told all the same: it looks twice the deadline ahead and cannot know when a surge ends.
* (b) What a refusal tells is when this person is let in if as many are refused as then. *Came back, let in then*: how
  many came at that time, and for how many of them it was true. In a rehearsal the share swings more than at full
  length, for the queue is measured no faster than there. While they come, one of three can be served.
  `OtpCodesDying` may be told for a moment although no code dies: an age counts until a letter is acknowledged, a
  deadline until the relay is spoken to, and the 3 s between are not divided by 12.
* (c) Each press is that of a stranger with the same mailbox, so none finds a letter to join, and admission is off. The
  relay is as busy as in (b): with second and third mails of people who have one, and with mails for people who have
  gone."""
Surge = tuple[Seen, Figures, list[str]]


def main() -> int:
    """Play each profile `--runs` times in a row; exit 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description="More people than the relay can serve.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", choices=[profile.name for profile in PROFILES])
    parser.add_argument("--proof", type=Path, help="folder of the summary and the picture")
    parser.add_argument("--picture", type=Path, default=Path(".kip/surge.svg"), help="where the picture goes otherwise")
    chosen = parser.parse_args()
    profiles = [profile for profile in PROFILES if chosen.only in {None, profile.name}]
    runs = [[_surge(number, profile) for profile in profiles] for number in range(1, chosen.runs + 1)]
    if chosen.proof is not None:
        _write_proof(chosen.proof, runs)
    picture = chosen.picture if chosen.proof is None else chosen.proof / "surge.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(picture_of([(seen, told) for seen, told, _ in runs[-1]]))
    bad = [f"run {number}, {seen.profile.name}: {words}" for number, seen, words in _all_broken(runs)]
    print("\n".join([f"\nsurge: {len(bad)} promises broken; picture: {picture}", *bad]))
    return 1 if bad else 0


def _surge(number: int, profile: Profile) -> Surge:
    print(f"\nrun {number} ({profile.name}) {profile.title}", flush=True)
    seen = asyncio.run(played(profile, lambda line: print(line, flush=True)))
    told = figures_of(seen)
    for name, value in asdict(told).items():
        print(f"{name:>16}  {value}")
    print(f"of everyone who came {told.of_everyone:.1%} got through, of the admitted {told.of_the_admitted:.1%}")
    return seen, told, broken(seen, told)


def _all_broken(runs: Sequence[Sequence[Surge]]) -> list[tuple[int, Seen, str]]:
    return [
        (number, seen, words) for number, run in enumerate(runs, 1) for seen, _, broken_ in run for words in broken_
    ]


def _write_proof(folder: Path, runs: Sequence[Sequence[Surge]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seen_in_runs = [
        {seen.profile.name: {"figures": asdict(told), "broken": words} for seen, told, words in run} for run in runs
    ]
    (folder / "surge.json").write_text(json.dumps({"cores": os.cpu_count(), "runs": seen_in_runs}, indent=1) + "\n")
    lines = [
        "# A surge: three times what the relay can take",
        "",
        _ABOUT.format(runs=len(runs), cores=os.cpu_count()),
        "",
        "![waits, people and alerts over time](surge.svg)",
        "",
    ]
    for number, (seen, _, _) in enumerate(runs[0]):
        surges = [run[number] for run in runs]
        lines += [f"## ({seen.profile.name}) {seen.profile.title}", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
        lines += [_row(_cells(run, told)) for run, (_, told, _) in enumerate(surges, 1)]
        lines += ["", "Seconds from the first person, by Prometheus's clock:", ""]
        lines += [_row(["run", *ORDER, *ENDS]), _row(["---"] * (1 + len(ORDER) + len(ENDS)))]
        lines += [
            _row([run, *(_known(told.order_s[sign]) for sign in (*ORDER, *ENDS))])
            for run, (_, told, _) in enumerate(surges, 1)
        ]
        lines += ["", "The last run, as it went:", "", "```text", HEADING, *map(str, surges[-1][0].rows), "```", ""]
    lines += ["## How to read it", "", _READING, ""]
    words = [f"- run {number}, ({seen.profile.name}): {words}" for number, seen, words in _all_broken(runs)]
    lines += ["## Promises that were not kept", "", *(words or ["None."])]
    (folder / "surge.md").write_text("\n".join(lines) + "\n")


def _cells(run: int, told: Figures) -> list[object]:
    return [
        run,
        told.came,
        told.let_in,
        told.mails,
        f"{told.of_everyone:.1%}",
        f"{told.of_the_admitted:.1%}",
        f"{told.at_once / told.came:.1%}",
        told.dropped,
        told.refused_people,
        f"{told.came_back}, {told.let_in_then}",
        "–".join(f"{seconds:.0f}" for seconds in told.told_s) if told.refusals else "",
        f"{told.p95_s:.1f} ({told.fluid_p95_s:.1f})",
        f"{told.relay_used:.1%}",
    ]


def _known(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:g}"


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
