"""The HTTP pages of a process that may be starting, ending or gone."""

from __future__ import annotations

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

ANSWER_S = 2


def fetch(address: str, path: str) -> tuple[int, str]:
    """Return status and text of a page; status 0, and why, when it does not answer in time."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=ANSWER_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()
    except OSError as nothing:
        return 0, str(nothing)


class Samples:
    """What a page of metrics says at one moment."""

    def __init__(self, text: str) -> None:
        """Read it."""
        self._values = {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """Return the one sample of that name and just these labels, or none."""
        return self._values.get((name, frozenset(labels.items())))

    def of(self, **labels: str) -> dict[str, float]:
        """Return the samples of just these labels by their names."""
        return {name: value for (name, found), value in self._values.items() if found == frozenset(labels.items())}


def value_on(address: str, name: str, **labels: str) -> float:
    """Return the one sample of that name and just these labels.

    Raises:
        LookupError: it is not on the page, or the page does not answer.
    """
    value = Samples(fetch(address, "/metrics")[1]).value(name, **labels)
    if value is None:
        raise LookupError(f"{name} {labels} is not on the page")
    return value
