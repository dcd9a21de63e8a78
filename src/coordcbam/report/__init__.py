"""Records to figures and one self-contained HTML page. Never imports torch."""

from pathlib import Path

from coordcbam._support.extras import require

__all__ = ["build_report"]


def build_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page about the run in ``folder``, and its figures as SVG files beside it.

    The page needs no network and no other file. A run that is still going, or that was cut
    short, gets one too; it says what is missing.

    Args:
        folder: the run's own folder or the ``save_dir`` above it.
        out: the page to write, or a folder for it; by default ``report.html`` in the run's folder.

    Returns:
        The path of the page; the figures are in ``figures/`` next to it.

    Raises:
        UsageError: there is no run in ``folder``.
        MissingExtraError: jinja2 or matplotlib is absent.

    >>> build_report(Path("no/such/place"))
    Traceback (most recent call last):
        ...
    coordcbam._support.errors.UsageError: no/such/place: expected a run's folder with run.json or \
monitor.csv in it or in its coordcbam/; give the save_dir of a run
    """
    require("jinja2", "matplotlib", for_what="the report")
    from coordcbam.report.page import write_page

    return write_page(Path(folder), out)
