"""The words of letters: each in both languages, with exactly the parameters that its owner gives, nothing unescaped."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
from jinja2 import meta

from services.dossier.rules.notice import LETTER_ADVANCED, LETTER_OPENED, letter_parameters
from services.dossier.rules.procedure import Name, State
from services.mailer.outbound.jinja_texts import TEMPLATES, JinjaTexts
from services.mailer.ports import Unreadable
from services.mailer.rules.letter import LOCALES
from tests.fakes.clock import NOON
from tests.fakes.mailer import CODE_PARAMETERS, NOTICE_PARAMETERS

PARTS = ("subject.txt", "body.txt", "body.html")
CODE_LETTER = {**CODE_PARAMETERS, "name": "Nguyễn Thị Lan", "context": "Cấp lại sổ", "code": "904817"}
NOTICE_LETTER = {**NOTICE_PARAMETERS, "name": "Nguyễn Thị Lan"}
PARAMETERS = {"code": CODE_LETTER, LETTER_OPENED: NOTICE_LETTER, LETTER_ADVANCED: NOTICE_LETTER}
EVIL = "<script>alert('x')</script>&\""
EVERY_PART = [(letter, locale, part) for letter in PARAMETERS for locale in LOCALES for part in PARTS]


@pytest.fixture(scope="module")
def texts() -> JinjaTexts:
    return JinjaTexts()


def named_in(letter: str, locale: str, part: str) -> set[str]:
    source = (TEMPLATES / letter / locale / part).read_text()
    return meta.find_undeclared_variables(jinja2.Environment(autoescape=True).parse(source))


def folder_with(folder: Path, **parts: str) -> Path:
    """Write one letter in both languages, with some of its parts changed."""
    for locale in LOCALES:
        (folder / "hello" / locale).mkdir(parents=True)
        for part in PARTS:
            (folder / "hello" / locale / part).write_text(parts.get(part.replace(".", "_"), "Hello {{ name }}"))
    return folder


def test_the_letters_are_those_that_somebody_asks_for() -> None:
    assert {folder.name for folder in TEMPLATES.iterdir() if folder.is_dir()} == set(PARAMETERS)


def test_the_parameters_of_a_notice_are_those_that_dossier_sends() -> None:
    sent = letter_parameters("K01", Name("Cấp lại", "Re-issue"), State.ACCEPTED, "", NOON)

    assert sent.keys() == NOTICE_PARAMETERS.keys()


@pytest.mark.parametrize(("letter", "locale", "part"), EVERY_PART)
def test_a_template_names_only_what_its_owner_gives(letter: str, locale: str, part: str) -> None:
    assert named_in(letter, locale, part) <= PARAMETERS[letter].keys()


@pytest.mark.parametrize("letter", PARAMETERS)
def test_both_languages_name_the_same_things(letter: str) -> None:
    def without_language(locale: str) -> set[str]:
        names = set().union(*(named_in(letter, locale, part) for part in PARTS))
        return {name.removesuffix(f"_{locale}") for name in names}

    assert without_language("vi") == without_language("en")


@pytest.mark.parametrize("letter", PARAMETERS)
def test_text_and_html_say_the_same_things(letter: str) -> None:
    for locale in LOCALES:
        assert named_in(letter, locale, "body.txt") == named_in(letter, locale, "body.html")


@pytest.mark.parametrize("letter", PARAMETERS)
def test_a_letter_renders_in_both_languages(texts: JinjaTexts, letter: str) -> None:
    words = texts.render(letter, PARAMETERS[letter])

    assert set(words) == set(LOCALES)
    for rendered in words.values():
        assert rendered.subject
        assert "\n" not in rendered.subject
        assert "{{" not in f"{rendered}"
        assert "None" not in f"{rendered}"
        assert "Nguyễn Thị Lan" in rendered.text
        assert "Nguyễn Thị Lan" in rendered.html
    assert words["vi"] != words["en"]


@pytest.mark.parametrize("letter", PARAMETERS)
def test_a_letter_without_a_name_greets_all_the_same(texts: JinjaTexts, letter: str) -> None:
    words = texts.render(letter, PARAMETERS[letter] | {"name": ""})

    assert words["vi"].text.startswith("Chào bạn,")
    assert words["en"].text.startswith("Hello,")


@pytest.mark.parametrize(
    ("letter", "missing"), [(letter, name) for letter, given in PARAMETERS.items() for name in given]
)
def test_a_parameter_that_is_missing_is_an_error_and_never_an_empty_place(
    texts: JinjaTexts, letter: str, missing: str
) -> None:
    given = {name: value for name, value in PARAMETERS[letter].items() if name != missing}
    used = any(missing in named_in(letter, locale, part) for locale in LOCALES for part in PARTS)

    if not used:
        assert texts.render(letter, given) == texts.render(letter, PARAMETERS[letter])
        return
    with pytest.raises(Unreadable, match=f"^letter {letter}: '{missing}' is undefined$"):
        texts.render(letter, given)


@pytest.mark.parametrize(
    ("flag", "vi", "en"),
    [
        ("", "[7F3K] Mã xác nhận của bạn", "[7F3K] Your confirmation code"),
        ("yes", "[7F3K] 904817 là mã của bạn", "[7F3K] 904817 is your code"),
    ],
)
def test_the_code_stands_in_the_subject_only_when_it_may(texts: JinjaTexts, flag: str, vi: str, en: str) -> None:
    words = texts.render("code", CODE_LETTER | {"code_in_subject": flag})

    assert (words["vi"].subject, words["en"].subject) == (vi, en)


def test_a_letter_that_replaces_a_late_one_says_so_with_both_references_in_every_part(texts: JinjaTexts) -> None:
    told = {
        "vi": "Thư này thay cho thư trước bị chậm (mã tham chiếu K2PD). "
        "Nếu thư đó cũng đến, hãy dùng mã trong thư này (7F3K).",
        "en": "This mail replaces an earlier one that was late (reference K2PD). "
        "If that one comes too, use the code of this mail (7F3K).",
    }

    words, plain = texts.render("code", CODE_LETTER | {"replaces": "K2PD"}), texts.render("code", CODE_LETTER)

    for locale, sentence in told.items():
        assert sentence in words[locale].text
        assert sentence in re.sub("<[^>]+>", "", words[locale].html)
        assert "K2PD" not in plain[locale].text + plain[locale].html


def test_a_letter_that_nobody_wrote_is_named_with_those_that_exist(texts: JinjaTexts) -> None:
    with pytest.raises(
        Unreadable, match=r"no letter is called 'code-2'; known: code, dossier-advanced, dossier-opened"
    ):
        texts.render("code-2", CODE_LETTER)


@pytest.mark.parametrize("letter", ["../code", "code/vi", "", "x" * 1_000, ".", "code\x00"])
def test_a_letter_is_a_name_and_no_path(texts: JinjaTexts, letter: str) -> None:
    with pytest.raises(Unreadable) as error:
        texts.render(letter, CODE_LETTER)

    assert len(str(error.value)) < 200


@pytest.mark.parametrize("letter", PARAMETERS)
def test_what_stands_in_html_is_escaped_and_what_stands_in_text_is_not(texts: JinjaTexts, letter: str) -> None:
    words = texts.render(letter, dict.fromkeys(PARAMETERS[letter], EVIL))

    for rendered in words.values():
        assert "<script" not in rendered.html
        assert "&lt;script&gt;" in rendered.html
        assert EVIL in rendered.text


def test_a_parameter_is_text_and_no_template(texts: JinjaTexts) -> None:
    words = texts.render("code", CODE_LETTER | {"context": "{{ code }} {% raw %}"})

    assert "{{ code }} {% raw %}" in words["vi"].text


def test_the_code_stands_in_both_parts_and_in_no_subject(texts: JinjaTexts) -> None:
    for rendered in texts.render("code", CODE_LETTER).values():
        assert len(re.findall(r"\b904817\b", rendered.text)) == 1
        assert len(re.findall(r"\b904817\b", rendered.html)) == 1
        assert "904817" not in rendered.subject
        assert "7F3K" in rendered.subject


def test_what_is_empty_leaves_no_heading_behind(texts: JinjaTexts) -> None:
    code = texts.render("code", CODE_LETTER | {"context": ""})
    notice = texts.render(LETTER_ADVANCED, NOTICE_LETTER | {"remark": ""})

    assert "xác nhận:" not in code["vi"].html
    assert "You are confirming" not in code["en"].text
    assert "Ghi chú" not in notice["vi"].html
    assert "Remark" not in notice["en"].text


@pytest.mark.parametrize("missing", ["hello/vi/subject.txt", "hello/en/body.html"])
def test_a_letter_without_a_part_is_told_at_the_start(tmp_path: Path, missing: str) -> None:
    folder = folder_with(tmp_path)
    (folder / missing).unlink()

    with pytest.raises(ValueError, match=f"templates of letters: TemplateNotFound: .*{missing}"):
        JinjaTexts(folder)


def test_a_template_that_does_not_compile_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"templates of letters: hello/vi/body\.html, line 1: "):
        JinjaTexts(folder_with(tmp_path, body_html="{{ name"))


def test_a_template_that_asks_for_what_a_text_cannot_do_is_unreadable(tmp_path: Path) -> None:
    texts = JinjaTexts(folder_with(tmp_path, body_txt="{{ name.first.letter }}"))

    with pytest.raises(Unreadable, match="letter hello"):
        texts.render("hello", {"name": "Lan"})
