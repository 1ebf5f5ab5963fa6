"""What this suite knows of the services is their contract: generated messages and addresses, never their code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ALLOWED = ("deploy.dev", "kip", "tests.conditions", "tests.e2e", "tests.servers", "tests.surge")
OURS = ("deploy", "kip", "services", "tests")


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: name the package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_of_the_services_is_imported() -> None:
    folders = (HERE, HERE.with_name("alerts"), HERE.with_name("surge"))
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]

    strangers = {
        f"{file.name} imports {name}"
        for file in files
        for name in imported(file)
        if name.partition(".")[0] in OURS and not any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED)
    }

    assert len(files) > 10
    assert strangers == set()


def test_an_import_of_a_service_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "test_inside.py"
    file.write_text("from services.otp.rules import challenge\nimport services.mailer\n")

    assert list(imported(file)) == ["services.otp.rules.challenge", "services.mailer"]
