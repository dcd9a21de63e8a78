"""Records to figures and one self-contained HTML page. Never imports torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coordcbam._support.extras import require

__all__ = ["build_comparison", "build_pictures", "build_preflight", "build_report"]


def build_report(
    folder: Path, out: Path | None = None, *, lang: str = "en", refresh: int | None = None
) -> Path:
    """Write the page about the run in ``folder``.

    The page needs no network and no other file. A run that is still going, or that was cut
    short, gets one too; it says what is missing.

    Args:
        folder: the run's own folder or the ``save_dir`` above it.
        out: the page to write, or a folder for it; by default ``report.html`` in the run's folder.
        lang: ``"en"`` or ``"tr"``.
        refresh: seconds after which a browser loads the page again, for a run that goes on.

    Returns:
        The path of the page.

    Raises:
        UsageError: there is no run in ``folder``, or another language.
        MissingExtraError: jinja2 or polars is absent.

    >>> build_report(Path("no/such/place"))
    Traceback (most recent call last):
        ...
    coordcbam._support.errors.UsageError: no/such/place: expected a run's folder with run.json or \
monitor.csv in it or in its coordcbam/; give the save_dir of a run
    """
    require("jinja2", "polars", for_what="the report")
    from coordcbam.report.run_page import write_run_page
    from coordcbam.report.words import Words

    return write_run_page(Path(folder), out, Words(lang), refresh)


def build_comparison(folders: Sequence[Path], out: Path, *, lang: str = "en") -> Path:
    """Write a page with the runs in ``folders`` side by side, and return its path.

    Args:
        folders: two or more runs' folders.
        out: the page to write, or a folder for it.
        lang: ``"en"`` or ``"tr"``.

    Raises:
        UsageError: fewer than two folders, one without a run, or another language.
        MissingExtraError: jinja2 or polars is absent.
    """
    require("jinja2", "polars", for_what="the report")
    from coordcbam.report.compare_page import write_compare_page
    from coordcbam.report.words import Words

    return write_compare_page([Path(folder) for folder in folders], Path(out), Words(lang))


def build_pictures(folder: Path, *, name: str = "pictures", lang: str = "en") -> Path:
    """Write a page with the pictures in ``folder``, which has a ``pictures.json``; return its path.

    Args:
        folder: where the pictures are and the page goes.
        name: what the page calls them, such as a checkpoint's name.
        lang: ``"en"`` or ``"tr"``.

    Raises:
        UsageError: another language.
        MissingExtraError: jinja2 is absent.
    """
    require("jinja2", for_what="the report")
    from coordcbam.report.pictures_page import write_pictures_page
    from coordcbam.report.words import Words

    return write_pictures_page(Path(folder), name, Words(lang))


def build_preflight(document: Mapping[str, Any], out: Path, *, lang: str = "en") -> Path:
    """Write the page of a preflight, and return its path.

    Args:
        document: what ``Preflight.to_dict()`` gives.
        out: the page to write, or a folder for it.
        lang: ``"en"`` or ``"tr"``.

    Raises:
        UsageError: a document of another kind, or another language.
        MissingExtraError: jinja2 is absent.
    """
    require("jinja2", for_what="the page")
    from coordcbam.report.preflight_page import write_preflight_page
    from coordcbam.report.words import Words

    return write_preflight_page(document, Path(out), Words(lang))
