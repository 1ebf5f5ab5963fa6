"""Documents and files: links lead somewhere, and nothing says where or with what secrets it was made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.quality.source_code import FENCED, ROOT, project_files

LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = ("https://", "http://", "mailto:", "#")

# Escaped dots and bracketed slashes keep these patterns from finding themselves.
UNWANTED = {
    "the address of a registry; its client knows it": re.compile(
        r"pypi\.org|files\.pythonhosted|registry\.npmjs|proxy\.golang\.org|repo1?\.maven|maven\.org|--index[-]url"
    ),
    "a path of somebody's machine": re.compile(r"""(?<![\w.*$})~-])[/](?:work|root|Users|home/\w+)[/]"""),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a key of 32 octets": re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{43}=(?!=)"),
    "a token of a well-known service": re.compile(
        r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|xox[abp]-[0-9A-Za-z-]{10,}|eyJ[A-Za-z0-9_-]{20,}\.eyJ)"
    ),
}


def broken_links(document: Path, text: str) -> list[str]:
    links = [link for link in LINK.findall(FENCED.sub("", text)) if not link.startswith(ELSEWHERE)]
    return [link for link in links if not (document.parent / link.partition("#")[0]).exists()]


def unwanted_in(text: str) -> list[tuple[str, str]]:
    return [(why, found.group()) for why, pattern in UNWANTED.items() for found in pattern.finditer(text)]


def test_every_link_between_documents_leads_to_a_file() -> None:
    documents = project_files("*.md")

    broken = {file.relative_to(ROOT).as_posix(): broken_links(file, file.read_text()) for file in documents}

    assert len(documents) >= 3
    assert {name: links for name, links in broken.items() if links} == {}


def test_a_link_to_nowhere_is_found() -> None:
    text = "[here](test_places_agree_documents.py#x) [away](https://example.vn) [nowhere](nowhere.md)"

    assert broken_links(Path(__file__), text) == ["nowhere.md"]


def test_no_file_tells_where_it_was_made_or_holds_a_secret() -> None:
    files = [file for file in project_files() if file.suffix not in {".binpb", ".png"}]

    found = {file.relative_to(ROOT).as_posix(): unwanted_in(file.read_text()) for file in files}

    assert {name: finds for name, finds in found.items() if finds} == {}


@pytest.mark.parametrize(
    "text",
    [
        "https://pypi" + ".org/simple",
        'open("/work' + '/main/x")',
        "-----BEGIN RSA PRIVATE" + " KEY-----",
        '"secret": "' + "qk3" * 14 + 'A="',
        "AKIA" + "ABCDEFGH12345678",
    ],
)
def test_what_must_not_be_there_is_recognised(text: str) -> None:
    assert len(unwanted_in(text)) == 1
