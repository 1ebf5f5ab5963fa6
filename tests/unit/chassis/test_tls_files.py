"""The files of a gRPC server's certificate: both or none, and readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.grpc_server import TlsFiles, tls_files


def test_without_files_there_is_no_tls() -> None:
    assert tls_files(None, None) is None


def test_one_file_alone_is_no_silent_way_to_speak_in_clear(tmp_path: Path) -> None:
    file = tmp_path / "server.pem"
    file.write_text("x")

    for certificate, key in ((file, None), (None, file)):
        with pytest.raises(ValueError, match=r"server\.pem is named alone"):
            tls_files(certificate, key)


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "server.key").write_text("x")

    with pytest.raises(ValueError, match=r"server\.crt cannot be read: No such file"):
        tls_files(tmp_path / "server.crt", tmp_path / "server.key")


def test_both_files_are_taken(tmp_path: Path) -> None:
    for name in ("server.crt", "server.key"):
        (tmp_path / name).write_text("x")

    found = tls_files(tmp_path / "server.crt", tmp_path / "server.key")

    assert found == TlsFiles(tmp_path / "server.crt", tmp_path / "server.key")


def test_whoever_signs_callers_is_named_only_beside_a_certificate_of_our_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ca\.crt is named alone"):
        tls_files(None, None, tmp_path / "ca.crt")
