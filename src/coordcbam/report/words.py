"""The page's language: English is the source, others are tables of translations."""

import json
import re
from functools import cache
from importlib import resources

from coordcbam._support.errors import UsageError

LANGUAGES = ("en", "tr")
_HOLE = re.compile(r"\{(\w+)\}")


class Words:
    """``words("{n} steps", n=3)`` in one of :data:`LANGUAGES`.

    A text without a translation stays English.

    Raises:
        UsageError: another language.

    >>> Words("tr")("finished"), Words("en")("{n} steps", n=3)
    ('bitti', '3 steps')
    """

    def __init__(self, language: str = "en") -> None:
        if language not in LANGUAGES:
            raise UsageError(f"lang={language!r}: expected one of {', '.join(LANGUAGES)}")
        self.language = language
        self._table = _table(language)

    def __call__(self, text: str, **values: object) -> str:
        """The text with its holes filled."""
        return self._table.get(text, text).format(**values)

    def count(self, number: int, noun: str, nouns: str) -> str:
        """A number and its noun.

        >>> Words("en").count(1, "{n} block", "{n} blocks")
        '1 block'
        >>> Words("tr").count(1200, "{n} block", "{n} blocks")
        '1,200 blok'
        """
        return self(noun if number == 1 else nouns, n=f"{number:,}")

    def told(self, text: str) -> str:
        """An English line that another room has written, by the form it has.

        >>> Words("tr").told("monitor.csv: the last line is torn and was skipped")
        'monitor.csv: son satır yarım kalmış, atlandı'
        """
        if self.language == "en" or text in self._table:
            return self._table.get(text, text)
        for form, pattern in _patterns(self.language):
            found = pattern.fullmatch(text)
            if found:
                return self(form, **found.groupdict())
        return text


@cache
def _table(language: str) -> dict[str, str]:
    if language == "en":
        return {}
    file = resources.files("coordcbam.report").joinpath(f"languages/{language}.json")
    table: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return table


@cache
def _patterns(language: str) -> list[tuple[str, re.Pattern[str]]]:
    """Every form as a pattern whose holes are groups, the one that says most first."""
    forms = sorted(_table(language), key=lambda form: len(_HOLE.sub("", form)), reverse=True)
    return [(form, re.compile(_regex(form), re.DOTALL)) for form in forms]


def _regex(form: str) -> str:
    parts = _HOLE.split(form)  # text, hole, text, ...
    return "".join(f"(?P<{p}>.+?)" if i % 2 else re.escape(p) for i, p in enumerate(parts))
