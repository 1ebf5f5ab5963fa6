"""The rights on Kafka that `docs/events.md` states: read from its table of topics and from the rules below it."""

from __future__ import annotations

from deploy.kafka_acls import Right
from tests.quality.source_code import ROOT, quoted, table_with


def stated_rights() -> frozenset[Right]:
    """Return every right that a reader of the page would expect."""
    page = (ROOT / "docs/events.md").read_text()
    rules = {row["who"]: row["right"] for row in table_with(page, "right")}
    found: set[Right] = set()
    for row in table_with(page, "kept"):
        (topic,) = quoted(row["topic"])
        reader = row["to (group)"].partition(" ")[0]
        groups = quoted(row["to (group)"])
        of = {"who makes the topic": ["topics"], "from": [row["from"]]}
        if groups:
            of |= {"to": [reader], "who watches": ["lagwatch"], "who puts dead letters back": ["operator"]}
        else:
            of["who reads dead letters"] = ["operator"]
        if topic == "otp.code-requested.v1" or topic.startswith("mail.retry.otp."):
            of["who samples"] = ["otp"]
        for who, users in of.items():
            for kind, operation in _each(rules[who]):
                names = [topic] if kind == "topic" else groups
                found |= {Right(user, kind, name, operation) for user in users for name in names}
    return frozenset(found)


def _each(cell: str) -> list[tuple[str, str]]:
    """Return kind and operation of each part of a cell such as "READ on the topic, READ on the group"."""
    parts = (part.split(" on the ") for part in cell.split(", "))
    return [(kind, operation) for operations, kind in parts for operation in operations.split(" and ")]
