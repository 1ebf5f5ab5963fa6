"""A YAML file that still knows on which line each of its values stands.

PyYAML forgets the places when it makes plain values, so the file is composed to nodes first: they yield the values, the
places, and the keys that stand twice, of which YAML silently takes the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    line: int
    """From 1."""
    words: str


class NotYaml(ValueError):
    """The text cannot be read as YAML at all."""

    def __init__(self, line: int, why: str) -> None:
        """Keep where reading ended."""
        super().__init__(why)
        self.problem = Problem(line, f"is not YAML: {why}")


class _Loader(yaml.SafeLoader):
    """Tells the place of a value that its tag, written or guessed, does not fit."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, ValueError) as error:  # of `!!int six`, or of the 31st of February
            words = f"`{node.value}` is no {node.tag.rpartition(':')[2]}; put it in quotes if it is text"
            raise yaml.constructor.ConstructorError(None, None, words, node.start_mark) from error


class YamlDocument:
    """One document: its content as plain values, and the line of each."""

    def __init__(self, text: str) -> None:
        """Read.

        Raises:
            NotYaml: with the line where reading ended.
        """
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            self.twice = list(_twice(self._root, (), set()))
            """Keys that stand twice in one mapping."""
            self.content: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise NotYaml(mark.line + 1 if mark else 1, _sentence(error)) from error
        except yaml.reader.ReaderError as error:  # a character that YAML forbids
            raise NotYaml(text.count("\n", 0, error.position) + 1, error.reason) from error

    def line_of(self, path: Sequence[object]) -> int:
        """Return the line where the value of a path of keys and places begins, or of what is there of the path."""
        node, line = self._root, 1
        for step in path:
            found = None
            if isinstance(node, yaml.MappingNode):  # a merge puts what it brings in front: the last one counts
                found = next(((key, value) for key, value in reversed(node.value) if key.value == str(step)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                found = (node.value[step], node.value[step])
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        return line


def _twice(node: yaml.Node | None, path: tuple[str, ...], seen: set[int]) -> Iterator[Problem]:
    """Yield the keys below `node` that stand twice; a node that several aliases share is looked at once."""
    if node is None or id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            yield from _twice(item, (*path, str(place)), seen)
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in first:
            where = ".".join((*path, name))
            yield Problem(line, f"{where}: stands twice, first on line {first[name]}; keep one of them")
        first.setdefault(name, line)
        yield from _twice(value, (*path, name), seen)


def _sentence(error: yaml.MarkedYAMLError) -> str:
    begun = f"{error.context} that begins on line {error.context_mark.line + 1}, " if error.context_mark else ""
    return f"{begun}{error.problem}"
