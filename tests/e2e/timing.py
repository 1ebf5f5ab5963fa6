"""Whether two kinds of calls can be told apart by how long they take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from random import Random

ALPHA_FACTOR = 1.95  # of the two-sample Kolmogorov-Smirnov test at a level of 0.001


def interleaved(kinds: Sequence[Callable[[], object]], times: int, seed: int) -> list[list[float]]:
    """Call each kind that often, in a random order, so that what happens to the machine happens to all alike.

    Returns:
        for each kind, how long its calls took, seconds.
    """
    order = [kind for kind in range(len(kinds)) for _ in range(times)]
    Random(seed).shuffle(order)
    took: list[list[float]] = [[] for _ in kinds]
    for kind in order:
        started = time.perf_counter()
        kinds[kind]()
        took[kind].append(time.perf_counter() - started)
    return took


def ks_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest distance between two empirical distributions, 0 to 1 (Kolmogorov-Smirnov)."""
    instants = sorted({*one, *other})
    return max(abs(_share(one, at) - _share(other, at)) for at in instants)


def ks_limit(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the distance that equal distributions exceed once in a thousand times."""
    return ALPHA_FACTOR * math.sqrt((len(one) + len(other)) / (len(one) * len(other)))


def _share(sample: Sequence[float], at: float) -> float:
    return sum(each <= at for each in sample) / len(sample)
