"""Photograph the pages for the docs, from a run of the demo and a preflight of its weights.

    python docs/make_screens.py runs/coordcbam/demo-step3 preflight.json

It needs playwright and Chromium, as the tests of the pages do.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from coordcbam.report import build_preflight, build_report

IMAGES = Path(__file__).parent / "img"
WIDTH = 1280


def main(run: Path, preflight: Path) -> None:
    """Write docs/img/report.png and docs/img/preflight.png."""
    with tempfile.TemporaryDirectory() as tmp, sync_playwright() as playwright:
        document = json.loads(preflight.read_text(encoding="utf-8"))
        pages = {
            "report": (build_report(run, Path(tmp, "report.html")), ".block"),
            "preflight": (build_preflight(document, Path(tmp, "preflight.html")), "section"),
        }
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, (path, shown) in pages.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": 900})
            page.goto(path.as_uri())
            page.locator(shown).first.screenshot(path=IMAGES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
