"""What a process tells on its page of metrics."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def page_of(address: str) -> str:
    """Read the page of one process."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def total(page: str, sample_name: str, **labels: str) -> float:
    """Add up the samples of that name which carry all these labels.

    Raises:
        AssertionError: there is none, so the name or a label is misspelt.
    """
    values = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == sample_name and labels.items() <= sample.labels.items()
    ]
    assert values, f"no sample {sample_name} with {labels}"
    return float(sum(values))
