from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from services.dossier.__main__ import read_files
from services.dossier.settings import DossierSettings


def _settings(folder: Path, **other: object) -> DossierSettings:
    """Return settings of a laptop whose files are all there, but for what is given."""
    key = {"kid": "k1", "secret": base64.b64encode(b"s" * 32).decode(), "not_before": "2026-01-01T00:00:00Z"}
    (folder / "callers.json").write_text(json.dumps({"callers": []}))
    (folder / "seal-notice.json").write_text(json.dumps({"keys": [key]}))
    good = {
        "profile": "laptop",
        "kafka_brokers": "127.0.0.1:9092",
        "callers_file": folder / "callers.json",
        "seal_notice_keys_file": folder / "seal-notice.json",
        "database_url": f"sqlite:///{folder}/dossier.db",
    }
    return DossierSettings.model_validate(good | other)


def test_files_that_are_all_right_are_read_and_nothing_is_opened_yet(tmp_path: Path) -> None:
    files = read_files(_settings(tmp_path))

    assert files.catalogue.procedure("book-reissue").code == "book-reissue"
    assert not (tmp_path / "dossier.db").exists()


def test_a_ring_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callers\.json is not a key ring"):
        read_files(_settings(tmp_path, seal_notice_keys_file=tmp_path / "callers.json"))


def test_callers_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        read_files(_settings(tmp_path, callers_file=tmp_path / "none.json"))


def test_a_database_in_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere of the SQLite file does not exist; make it first"):
        read_files(_settings(tmp_path, database_url=f"sqlite:///{tmp_path}/nowhere/dossier.db"))


def test_a_database_without_a_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="database_url"):
        read_files(_settings(tmp_path, database_url="sqlite:///"))


def test_a_folder_without_procedures_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="procedures are wrong"):
        read_files(_settings(tmp_path, procedures_dir=tmp_path))
