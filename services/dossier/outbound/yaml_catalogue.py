"""Implements `Catalogue` with a folder of YAML files, one procedure each, read once at the start.

Whoever writes a procedure gets every problem of every file at once, in the words of the file. YAML's own trap, a key
that stands twice and silently wins, is a problem too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.dossier.ports import UnknownProcedure
from services.dossier.rules.procedure import Name, Procedure, State, problems

StateName = StrEnum("StateName", {state.name: state.name.lower() for state in State})  # type: ignore[misc] # the same words twice would drift apart


class CatalogueWrongError(ValueError):
    """The procedures cannot be used; the text lists every problem of every file."""


class _Mail(StrEnum):
    NOTICE = "notice"
    SILENT = "silent"


class _NameEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    vi: Annotated[str, Field(min_length=1, max_length=200)]
    en: Annotated[str, Field(min_length=1, max_length=200)]


class _ProcedureFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,63}$")]
    name: _NameEntry
    opening: _Mail
    moves: Annotated[dict[StateName, dict[StateName, _Mail]], Field(min_length=1)]


class YamlCatalogue:
    """Implements `Catalogue`."""

    def __init__(self, procedures: Mapping[str, Procedure]) -> None:
        self._procedures = procedures

    def procedure(self, code: str) -> Procedure:
        """Implements `Catalogue`."""
        try:
            return self._procedures[code]
        except KeyError:
            raise UnknownProcedure(code) from None


def read_catalogue(folder: Path) -> YamlCatalogue:
    """Read and check every `*.yaml` of a folder.

    Raises:
        CatalogueWrongError: lists every problem.
    """
    files = sorted(folder.glob("*.yaml"))
    found: list[str] = [] if files else [f"{folder}: no procedure (*.yaml) is there"]
    procedures: dict[str, Procedure] = {}
    for file in files:
        try:
            procedure = _read(file)
        except CatalogueWrongError as wrong:
            found.append(str(wrong))
        else:
            procedures[procedure.code] = procedure
    if found:
        raise CatalogueWrongError("\n  ".join(["procedures are wrong:", *found]))
    return YamlCatalogue(procedures)


def _read(file: Path) -> Procedure:
    def wrong(*sentences: str) -> CatalogueWrongError:
        return CatalogueWrongError("\n  ".join(f"{file.name}: {sentence}" for sentence in sentences))

    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - it is a SafeLoader
        entry = _ProcedureFile.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(f"cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise wrong(f"is not YAML: {error}") from error
    except ValidationError as error:
        raise wrong(*(_sentence(problem) for problem in error.errors(include_url=False))) from error
    procedure = _procedure(entry)
    found = problems(procedure)
    if entry.code != file.stem:
        found.append(f"code is {entry.code}, and the file must be named {entry.code}.yaml")
    if found:
        raise wrong(*found)
    return procedure


def _sentence(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    return f"{where or 'file'}: {problem['msg']}"


def _procedure(entry: _ProcedureFile) -> Procedure:
    moves = {
        State[start.name]: {State[to.name]: mail is _Mail.NOTICE for to, mail in targets.items()}
        for start, targets in entry.moves.items()
    }
    return Procedure(entry.code, Name(entry.name.vi, entry.name.en), entry.opening is _Mail.NOTICE, moves)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"stands twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)
