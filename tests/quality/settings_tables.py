"""Are the settings tables of the READMEs what the services' settings say? `python -m tests.quality.settings_tables`.

`--write` (`make settings-doc`) rewrites the tables instead. A table stands between two markers, `<!-- settings -->` and
`<!-- /settings -->`; what is around them is left alone. A default is shown as one would write it into the environment;
of a secret, only that it is one.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from tests.quality.source_code import ROOT, SERVICES

BEGIN, END = "<!-- settings -->", "<!-- /settings -->"
TABLE = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
HEAD = "| variable | default | meaning |\n| --- | --- | --- |"


def settings_of(service: str) -> type[BaseSettings]:
    """Return the settings class of a service: by rule `<Service>Settings` in its `settings` module."""
    kind: type[BaseSettings] = getattr(
        importlib.import_module(f"services.{service}.settings"), f"{service.capitalize()}Settings"
    )
    return kind


def all_settings_of(service: str) -> list[type[BaseSettings]]:
    """Return the settings classes of a service, its own first: a second process of it has settings of its own."""
    own = settings_of(service)
    others = [kind for kind in vars(sys.modules[own.__module__]).values() if _is_settings_of(own.__module__, kind)]
    return [own, *(kind for kind in others if kind is not own)]


def _is_settings_of(module: str, kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseSettings) and kind.__module__ == module


def is_secret(field: FieldInfo) -> bool:
    """Say whether the field's value must not be shown."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def table_of(kind: type[BaseSettings]) -> str:
    """Return the table, markers included; the service's own settings first, those of every process after them."""
    prefix = kind.model_config.get("env_prefix", "")
    own = [name for name in kind.model_fields if name in kind.__annotations__]
    names = own + [name for name in kind.model_fields if name not in own]
    rows = [_row(f"{prefix}{name.upper()}", kind.model_fields[name]) for name in names]
    return "\n".join([BEGIN, HEAD, *rows, END])


def with_table(readme: str, *tables: str) -> str:
    """Return the README with the tables in their places, in order.

    Raises:
        ValueError: it has not as many places.
    """
    places = len(TABLE.findall(readme))
    if places != len(tables):
        times = "once" if len(tables) == 1 else f"{len(tables)} times"
        raise ValueError(f"needs the markers {BEGIN} and {END} exactly {times}, and has {places} such places")
    left = iter(tables)
    return TABLE.sub(lambda _: next(left), readme)


def stale() -> Iterator[tuple[Path, str, str]]:
    """Yield each README that is not fresh, what is wrong, and its text as it should be; no text: a person must."""
    for service in SERVICES:
        readme = ROOT / "services" / service / "README.md"
        if not readme.is_file():
            yield readme, "is missing", ""
            continue
        text = readme.read_text()
        try:
            fresh = with_table(text, *map(table_of, all_settings_of(service)))
        except ValueError as error:
            yield readme, str(error), ""
            continue
        if fresh != text:
            yield readme, "has a stale settings table; run `make settings-doc`", fresh


def _row(variable: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{variable}` | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**, secret" if is_secret(field) else "**required**"
    if is_secret(field):
        return "none, secret"
    return "none" if field.default is None else f"`{_written(field.default)}`"


def _written(value: Any) -> str:
    """Return a value as it stands in the environment."""
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case timedelta():
            return str(TypeAdapter(timedelta).dump_python(value, mode="json"))
        case Path():
            return value.relative_to(ROOT).as_posix() if value.is_relative_to(ROOT) else value.as_posix()
        case _:
            return str(value)


def main() -> int:
    """Check, or write."""
    parser = argparse.ArgumentParser(description="Settings tables of the services' READMEs.")
    parser.add_argument("--write", action="store_true", help="rewrite the tables that are stale")
    write = parser.parse_args().write
    failed = False
    for readme, wrong, fresh in stale():
        if write and fresh:
            readme.write_text(fresh)
            print(f"{readme.relative_to(ROOT)}: written")
        else:
            print(f"{readme.relative_to(ROOT)}: {wrong}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
