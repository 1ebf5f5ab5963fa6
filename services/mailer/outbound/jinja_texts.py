"""The words of letters: `templates/<letter>/<locale>/{subject.txt,body.txt,body.html}`, compiled once at the start.

A parameter that a template names and nobody gave is an error, never an empty place; what stands in html is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jinja2

from services.chassis.dead_letter import DeadKind
from services.mailer.ports import Unreadable
from services.mailer.rules.letter import LOCALES, Rendered

TEMPLATES = Path(__file__).parents[1] / "templates"


class JinjaTexts:
    """Implements `Texts`."""

    def __init__(self, folder: Path = TEMPLATES) -> None:
        """Compile every template.

        Raises:
            ValueError: a letter lacks a language or a part, or a template is wrong; names the file.
        """
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            undefined=jinja2.StrictUndefined,
            autoescape=jinja2.select_autoescape(enabled_extensions=("html",), default_for_string=True),
        )
        try:
            self._letters = {
                letter.name: {
                    locale: tuple(
                        environment.get_template(f"{letter.name}/{locale}/{part}")
                        for part in ("subject.txt", "body.txt", "body.html")
                    )
                    for locale in LOCALES
                }
                for letter in sorted(folder.iterdir())
                if letter.is_dir()
            }
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"templates of letters: {error.name}, line {error.lineno}: {error.message}") from error
        except jinja2.TemplateError as error:
            raise ValueError(f"templates of letters: {type(error).__name__}: {error}") from error

    def render(self, letter: str, parameters: Mapping[str, str]) -> Mapping[str, Rendered]:
        """Implements `Texts`."""
        templates = self._letters.get(letter)
        if templates is None:
            why = f"no letter is called {letter[:40]!r}; known: {', '.join(self._letters)}"
            raise Unreadable(why, DeadKind.UNKNOWN_TEMPLATE)
        try:
            return {
                locale: Rendered(subject.render(parameters).strip(), text.render(parameters), html.render(parameters))
                for locale, (subject, text, html) in templates.items()
            }
        except jinja2.UndefinedError as error:
            raise Unreadable(f"letter {letter}: {error.message}", DeadKind.MISSING_PARAMETER) from error
