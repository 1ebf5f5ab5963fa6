"""The policy, read from YAML and checked: every problem at once, each with its line and in the words of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services.otp.outbound.yaml_entries import HotlineEntry, PolicyFile
from services.otp.outbound.yaml_limits import limits_of
from services.otp.outbound.yaml_lines import NotYaml, Problem, YamlDocument
from services.otp.rules.hotline import Hotline
from services.otp.rules.policy import Policy, Purpose
from services.otp.rules.standards import NEVER_IN_SUBJECT


class PolicyWrongError(ValueError):
    """The policy file cannot be used; the text lists every problem."""


def read_policy(path: Path) -> Policy:
    """Read and check the policy.

    Raises:
        PolicyWrongError: lists every problem of the file, by line.
    """
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise PolicyWrongError(f"{path} cannot be read: {error.strerror}") from error
    try:
        document = YamlDocument(_decoded(octets))
    except NotYaml as error:
        raise _wrong(path, [error.problem]) from error
    found = [*document.twice, *_across(document)]
    try:
        file = PolicyFile.model_validate(document.content)
    except ValidationError as error:
        raise _wrong(path, [*found, *_told(document, error)]) from error
    if found:
        raise _wrong(path, found)
    return _policy(file)


def _decoded(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise NotYaml(octets.count(b"\n", 0, error.start) + 1, "text must be UTF-8") from error


def _across(document: YamlDocument) -> Iterator[Problem]:
    """Yield what entries owe each other; looks at what is there, whether or not the rest is right."""
    content = _mapping(document.content)
    for name, entry in _mapping(content.get("purposes")).items():
        for field, table in (("advice", "advice"), ("hotline", "hotlines")):
            wanted, known = _mapping(entry).get(field), _mapping(content.get(table))
            if isinstance(wanted, str) and wanted not in known:
                words = f"no `{wanted}` in {table} of this file; there is {', '.join(map(str, known)) or 'none'}"
                yield _problem(document, ("purposes", name, field), words)
        if name in NEVER_IN_SUBJECT and _mapping(entry).get("code_in_subject") is True:
            words = f"a code of {name} never stands in a subject, where a locked phone shows it; no reason lifts this"
            yield _problem(document, ("purposes", name, "code_in_subject"), words)


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _told(document: YamlDocument, error: ValidationError) -> Iterator[Problem]:
    for told in error.errors(include_url=False):
        path = tuple(step for step in told["loc"] if step != "[key]")
        yield _problem(document, path, told["msg"].removeprefix("Value error, "))


def _problem(document: YamlDocument, path: tuple[object, ...], words: str) -> Problem:
    return Problem(document.line_of(path), f"{'.'.join(map(str, path)) or 'file'}: {words}")


def _wrong(path: Path, problems: list[Problem]) -> PolicyWrongError:
    lines = [f"{path.name}:{problem.line}: {problem.words}" for problem in sorted(problems, key=lambda p: p.line)]
    return PolicyWrongError("\n  ".join([f"{path} is wrong:", *lines]))


def _policy(file: PolicyFile) -> Policy:
    hotlines = {name: _hotline(entry) for name, entry in file.hotlines.items()}
    advice = {
        name: {kind: words.model_dump() for kind, words in entries.items()} for name, entries in file.advice.items()
    }
    purposes = {}
    for name, entry in file.purposes.items():
        fields = dict(entry)
        del fields["beyond_standard"]  # said to whoever reads the file, and to its checks
        hotline = None if entry.hotline is None else hotlines[entry.hotline]
        purposes[name] = Purpose(**{**fields, "name": name, "advice": advice[entry.advice], "hotline": hotline})
    return Policy(purposes, limits_of(file.limits, file.mailboxes))


def _hotline(entry: HotlineEntry) -> Hotline:
    return Hotline(entry.phone, entry.zone, entry.open, entry.text.model_dump())
