"""Generated code: what `make protos-check` calls stale."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.quality import generated_code
from tests.quality.generated_code import PROTOS, code_below, generate, stale

CODE = {"kip/a/v1/a_pb2.py": b"1", "kip/a/v1/a_pb2.pyi": b"2"}


def test_fresh_code_is_not_stale() -> None:
    assert stale(CODE, dict(CODE)) == []


def test_a_changed_a_missing_and_a_left_over_file_are_named() -> None:
    fresh = {"kip/a/v1/a_pb2.py": b"other", "kip/b/v1/b_pb2.py": b"3"}

    assert [line.partition(": ")[0] for line in stale(CODE, fresh)] == [
        "kip/a/v1/a_pb2.py",
        "kip/a/v1/a_pb2.pyi",
        "kip/b/v1/b_pb2.py",
    ]


def test_a_changed_contract_makes_the_committed_code_stale(tmp_path: Path) -> None:
    protos, fresh = tmp_path / "protos", tmp_path / "fresh"
    fresh.mkdir()
    shutil.copytree(PROTOS, protos)
    contract = protos / "kip/otp/v1/otp_error_reason.proto"
    contract.write_text(contract.read_text().replace("UNKNOWN_PURPOSE", "STRANGE_PURPOSE"))

    generate(protos, fresh)

    assert {line.partition("_pb2")[0] for line in stale(code_below(PROTOS), code_below(fresh))} == {
        "kip/otp/v1/otp_error_reason"
    }


def test_a_contract_that_does_not_compile_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    contract = tmp_path / "kip/a/v1/a.proto"
    contract.parent.mkdir(parents=True)
    contract.write_text("no contract")
    monkeypatch.setattr(generated_code, "PROTOS", tmp_path)

    assert generated_code.main() == 1
    assert "mend the contract" in capfd.readouterr().err
