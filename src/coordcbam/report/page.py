"""Pages: templates filled into one HTML file that needs nothing else, not even a network."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from coordcbam._support.errors import UsageError
from coordcbam._support.files import write_atomically
from coordcbam.report.charts import Chart, drawn, summary
from coordcbam.report.tables import number
from coordcbam.report.words import Words

PAGE = "report.html"
_TYPES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
EMBEDDED = 2_500_000  # bytes of pictures in a page; the rest stays beside it


def write_page(
    target: Path,
    template: str,
    words: Words,
    charts: Sequence[Chart],
    context: Mapping[str, Any],
    refresh: int | None = None,
    name: str = PAGE,
) -> Path:
    """Fill ``template`` and write it; every text in ``context`` is escaped.

    Args:
        target: a file that ends with .html, or a folder for ``name``.
        template: its name.
        words: the page's language.
        charts: every chart of the page, whose places the template makes.
        context: what else the template asks for.
        refresh: seconds after which a browser loads the page again.
        name: of the file in a folder.

    Raises:
        UsageError: a target that cannot be written.
    """
    target = _place(target, name)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("coordcbam.report"),
    )
    environment.globals.update(
        _=words, n_=words.count, told=words.told, number=number, moment=moment
    )
    assets = {
        name.partition(".")[0] + "_" + name.partition(".")[2]: Markup(_asset(name))
        for name in ("uplot.js", "uplot.css", "page.css", "charts.js")
    }
    text = environment.get_template(template).render(
        **context,
        **assets,
        lang=words.language,
        refresh=refresh,
        data=Markup(_json(drawn(charts, words))) if charts else None,
        told_of={chart.name: summary(chart, words) for chart in charts},
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # What is no text, such as a folder's name in another encoding, is spelled out.
        write_atomically(target.resolve(), text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written ({error.strerror}): give another page or folder with -o"
        ) from None
    return target


def _place(target: Path, name: str) -> Path:
    """The page's file: what does not end with .html is a folder, so no record is overwritten."""
    if target.is_dir() or target.suffix.lower() not in {".html", ".htm"}:
        target /= name
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is no page to replace: give another with -o")
    return target


def _asset(name: str) -> str:
    return resources.files("coordcbam.report").joinpath(f"assets/{name}").read_text("utf-8")


def _json(document: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def moment(text: str) -> str:
    """An ISO time for people; what is none is shown as it is.

    >>> moment("2026-01-02T03:04:05+00:00"), moment("soon")
    ('2026-01-02 03:04 UTC', 'soon')
    """
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return text


def embedded(folder: Path, files: Sequence[str], budget: int = EMBEDDED) -> dict[str, str]:
    """Pictures below ``folder`` as data, until the budget is spent; others by their address."""
    found = {}
    for name in files:
        path = folder / name.replace("\0", "")
        kind = _TYPES.get(path.suffix.lower())
        inside = os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
        if kind is None or not inside:
            continue
        try:
            raw = path.read_bytes()
        except OSError:
            continue
        budget -= len(raw)
        if budget >= 0:
            found[name] = f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
    return found
