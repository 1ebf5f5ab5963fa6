from __future__ import annotations

from pathlib import Path

import pytest

from services.dossier.outbound.yaml_catalogue import CatalogueWrongError, read_catalogue
from services.dossier.ports import UnknownProcedure
from services.dossier.rules.procedure import Name, State
from services.dossier.settings import PACKAGED_PROCEDURES

GOOD = """\
code: good
name: {vi: Tốt, en: Good}
opening: notice
moves:
  registered: {accepted: notice, withdrawn: silent}
  accepted: {done: notice}
"""


def _problems(folder: Path) -> str:
    with pytest.raises(CatalogueWrongError) as wrong:
        read_catalogue(folder)
    return str(wrong.value)


def test_the_packaged_procedures_are_sound_and_named_in_both_languages() -> None:
    catalogue = read_catalogue(PACKAGED_PROCEDURES)

    for code in ("book-reissue", "maternity-benefit", "voluntary-enrolment"):
        procedure = catalogue.procedure(code)
        assert procedure.code == code
        assert procedure.name.vi != procedure.name.en
        assert procedure.opening_mails


def test_a_procedure_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)

    procedure = read_catalogue(tmp_path).procedure("good")

    assert procedure.name == Name("Tốt", "Good")
    assert procedure.opening_mails
    assert procedure.moves == {
        State.REGISTERED: {State.ACCEPTED: True, State.WITHDRAWN: False},
        State.ACCEPTED: {State.DONE: True},
    }


def test_a_procedure_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)

    with pytest.raises(UnknownProcedure):
        read_catalogue(tmp_path).procedure("bad")


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "one.yaml").write_text(
        "code: one\nname: {vi: Một}\nopening: maybe\nmoves: {registered: {gone: notice}}\n"
    )
    (tmp_path / "two.yaml").write_text(GOOD)
    (tmp_path / "three.yaml").write_text("code: [")

    told = _problems(tmp_path)

    assert "one.yaml: name.en: Field required" in told
    assert "one.yaml: opening: Input should be 'notice' or 'silent'" in told
    assert "one.yaml: moves.registered.gone: Input should be 'registered'" in told
    assert "two.yaml: code is good, and the file must be named good.yaml" in told
    assert "three.yaml: is not YAML" in told
    assert "good.yaml: " not in told.replace("two.yaml: code is good, and the file must be named good.yaml", "")


def test_a_graph_that_leads_nowhere_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD.replace("accepted: {done: notice}", "accepted: {accepted: notice}"))

    told = _problems(tmp_path)

    assert "good.yaml: accepted leads to itself" in told
    assert "good.yaml: no way leads from accepted to an end" in told


def test_a_key_that_stands_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD + "  registered: {done: notice}\n")

    assert "stands twice: registered" in _problems(tmp_path)


def test_a_folder_without_procedures_is_told(tmp_path: Path) -> None:
    assert "no procedure (*.yaml) is there" in _problems(tmp_path / "nowhere")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_bytes(b"code: \xff")

    assert "good.yaml: cannot be read" in _problems(tmp_path)
