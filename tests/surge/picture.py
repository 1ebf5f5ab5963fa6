"""A picture of surges, as SVG: for each, what people would wait, who got through, and what was told when.

Drawn by hand, since a line, a band and a bar is all there is, and a library for plots would be the heaviest thing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

from tests.e2e.alarms import HURRY
from tests.surge.judge import Figures
from tests.surge.play import ALERTS, Row, Seen
from tests.surge.profiles import DEADLINE_S

WIDTH, LEFT, RIGHT, GAP = 960, 52, 12, 56
PLOT = (WIDTH - GAP - 2 * (LEFT + RIGHT)) // 2
HIGH, HEAD, STRIP = 170, 54, 14
PANEL = HEAD + HIGH + len(ALERTS) * STRIP + 46
WAIT, AGE, REFUSED, CAME, ALIVE, DEAD = "#1f5fa8", "#7a9cc6", "#f3c677", "#777777", "#2f7d4f", "#c0392b"
LOAD = "#6b4fa0"
ALERTS_IN_INK = dict(zip(ALERTS, ("#d9a400", "#e07b20", "#c75a3a", "#8c1d18"), strict=True))
FONT = 'font-family="sans-serif" font-size="12"'


def picture_of(surges: Sequence[tuple[Seen, Figures]]) -> str:
    """Return the document; each surge is a row of two plots."""
    until_s = max(seen.rows[-1].at_s for seen, _ in surges)
    rows = [line for number, each in enumerate(surges) for line in _panel(*each, until_s, number * PANEL + 34)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {WIDTH + 8} {len(surges) * PANEL + 44}" {FONT}>',
            f'<rect x="-8" width="100%" height="100%" fill="white"/>{_legend()}',
            *rows,
            "</svg>\n",
        ]
    )


def _legend() -> str:
    inks = {
        "predicted wait": WAIT,
        "age of the oldest": AGE,
        "refused": REFUSED,
        "came": CAME,
        "codes alive": ALIVE,
        "codes dead": DEAD,
    }
    marks = [
        f'<rect x="{LEFT + 150 * number}" y="12" width="18" height="8" fill="{ink}"/>'
        + _text(LEFT + 150 * number + 24, 20, words)
        for number, (words, ink) in enumerate(inks.items())
    ]
    return "".join(marks)


def _panel(seen: Seen, told: Figures, until_s: float, top: int) -> Iterator[str]:
    rows, low = seen.rows, top + HEAD + HIGH
    shares = f"{told.of_everyone:.0%} of everyone who came and {told.of_the_admitted:.0%} of the admitted got through"
    yield _text(LEFT, top + 20, f"({seen.profile.name}) {seen.profile.title}", weight="bold")
    yield _text(LEFT, top + 37, f"{shares}; {told.refused_people} people refused at first, {told.dropped} codes dead")
    left, right = LEFT, LEFT + PLOT + RIGHT + GAP
    longest = 20 * (int(max(DEADLINE_S, *(row.wait_s for row in rows)) // 20) + 1)
    per_s = PLOT / until_s
    most_people = 100 * (max(max(row.came, row.dead) for row in rows) // 100 + 1)
    yield from _frame(left, low, until_s, longest, real=HURRY / 60, unit=" min")
    yield from _frame(right, low, until_s, most_people)
    yield _band(rows, left, low, per_s)
    deadline = low - HIGH * DEADLINE_S / longest
    yield f'<path d="M{left} {deadline:.1f}h{PLOT}" stroke="{DEAD}" stroke-dasharray="5 4"/>'
    yield _text(left + PLOT - 56, deadline - 4, "deadline", ink=DEAD)
    for x, most, ink, numbers in (
        (left, longest, WAIT, [row.wait_s for row in rows]),
        (left, longest, AGE, [row.age_s for row in rows]),
        (right, most_people, CAME, [row.came for row in rows]),
        (right, most_people, ALIVE, [row.alive for row in rows]),
        (right, most_people, DEAD, [row.dead for row in rows]),
    ):
        places = zip(rows, numbers, strict=True)
        path = " ".join(f"{x + row.at_s * per_s:.1f},{low - HIGH * number / most:.1f}" for row, number in places)
        yield f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"/>'
    for number, alert in enumerate(ALERTS):
        yield from _strip(rows, alert, low + 22 + number * STRIP, per_s)
    yield from _loads(rows, right, low + 22 + len(ALERTS) * STRIP, per_s)


def _frame(left: float, low: float, until_s: float, most: float, *, real: float = 1, unit: str = "") -> Iterator[str]:
    yield f'<rect x="{left}" y="{low - HIGH}" width="{PLOT}" height="{HIGH}" fill="none" stroke="#bbbbbb"/>'
    for part in (0, 0.5, 1):
        yield _text(left - 6, low - HIGH * part + 4, f"{most * part * real:.0f}{unit}", anchor="end")
    for at_s in range(0, int(until_s) + 1, 60):
        x = left + PLOT * at_s / until_s
        yield f'<path d="M{x:.1f} {low}v4" stroke="#777777"/>'
        yield _text(x, low + 16, f"{at_s * HURRY // 60} min", anchor="middle")


def _band(rows: Sequence[Row], left: float, low: float, per_s: float) -> str:
    """Return the share that is refused, as an area under the waits: the whole height is everybody."""
    tops = " ".join(f"{left + row.at_s * per_s:.1f},{low - HIGH * row.refused:.1f}" for row in rows)
    end = left + rows[-1].at_s * per_s
    return f'<polygon points="{left},{low} {tops} {end:.1f},{low}" fill="{REFUSED}" fill-opacity="0.5"/>'


def _loads(rows: Sequence[Row], left: float, low: float, per_s: float) -> Iterator[str]:
    """Yield the load that is offered, small, and where the relay could just take it."""
    per_load = (len(ALERTS) - 0.5) * STRIP / max(row.offered for row in rows)
    path = " ".join(f"{left + row.at_s * per_s:.1f},{low - row.offered * per_load:.1f}" for row in rows)
    yield f'<path d="M{left} {low - per_load:.1f}h{PLOT}" stroke="#777777" stroke-dasharray="2 3"/>'
    yield f'<polyline points="{path}" fill="none" stroke="{LOAD}" stroke-width="2"/>'
    yield _text(left - 6, low - per_load + 4, "1", anchor="end")
    yield _text(left + PLOT, low - per_load - 4, "offered load", anchor="end", ink=LOAD)


def _strip(rows: Sequence[Row], alert: str, y: float, per_s: float) -> Iterator[str]:
    ink = ALERTS_IN_INK[alert]
    for row, following in pairwise(rows):
        if alert in row.told:
            x, width = LEFT + row.at_s * per_s, (following.at_s - row.at_s) * per_s
            yield f'<rect x="{x:.1f}" y="{y}" width="{width + 0.5:.1f}" height="{STRIP - 4}" fill="{ink}"/>'
    yield _text(LEFT + PLOT + 8, y + 10, alert.removeprefix("OtpCodes"), ink=ink)


def _text(x: float, y: float, words: str, *, anchor: str = "start", ink: str = "#222222", weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}"{bold}>{escape(words)}</text>'
