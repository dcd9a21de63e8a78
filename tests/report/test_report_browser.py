"""The pages in a browser: every chart is drawn and can be read, in the dark, on a phone, on paper."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")

from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api

from coordcbam.records import Event, Picture, write_pictures
from coordcbam.report import build_comparison, build_pictures, build_report

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

FIELDS = ["r_out_pre", "rho", "rms", "r_ema", "alpha", "alpha_eff", "T", "fusion_avg", "fusion_max"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """``opened(page file, width=, dark=)``; whatever the console says is a failure."""
    said: list[str] = []
    contexts = []

    def show(path: Path, *, width: int = 1280, dark: bool = False, first: str = "") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(first)
        # The tests themselves read canvases back.
        page.on(
            "console",
            lambda message: "willReadFrequently" in message.text or said.append(message.text),
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(request.url))
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}
        return page

    yield show
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def folder(make_run: Any) -> Path:
    """Three blocks with a dip, a rescue, a gap and pictures."""

    def ratio(block: str, step: int) -> float:
        return math.nan if step == 9 else 0.3 if (block, step) == ("b", 5) else 0.8 + step / 100

    run: Path = make_run(
        blocks=("a", "b", "model.22.<ccattn>"),
        steps=range(40),
        ratio=ratio,
        alpha_eff=lambda block, step: 0.3 if block == "b" and 5 <= step < 12 else 0.5,
        fields=[*FIELDS, "skipped"],
        certificate={"r_min": 0.78, "gain_min": 0.5, "gain_max": 1.8},
    )
    events = [
        Event(step=5, epoch=2, block="b", kind="rescue", message="the rescue acts"),
        Event(step=12, epoch=6, block="b", kind="rescue_ended", message="ended"),
        Event(step=9, epoch=4, block="a", kind="skipped", message="a batch told nothing"),
    ]
    with (run / "events.jsonl").open("w") as file:
        file.writelines(json.dumps(vars(event)) + "\n" for event in events)
    from PIL import Image

    Image.new("RGB", (240, 160), (90, 120, 150)).save(run / "x.jpg")
    picture = {"image": "ğüş.jpg", "file": "x.jpg", "gain": (0.5, 1.0, 1.5), "objects": 1.2}
    write_pictures(
        run, [Picture(block="a", stage=stage, **picture) for stage in ("before", "after")]
    )
    return run


def charts(page: Any) -> int:
    return int(page.evaluate("document.documentElement.dataset.charts || 0"))


def inked(page: Any) -> list[int]:
    """Pixels of each chart's canvas that are drawn on."""
    found: list[int] = page.evaluate(
        """[...document.querySelectorAll('.chart canvas')].map((canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
          return count;
        })"""
    )
    return found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_every_chart_is_drawn_and_nothing_sticks_out(
    folder: Path, opened: Any, width: int, dark: bool
) -> None:
    page = opened(build_report(folder), width=width, dark=dark)
    assert charts(page) == page.locator(".chart").count() == 3 * 3 + 3
    assert min(inked(page)) > 500
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widths = page.evaluate("[...document.querySelectorAll('.chart')].map((c) => c.scrollWidth)")
    assert max(widths) <= width


def test_pointing_at_a_chart_reads_it_and_its_neighbours(folder: Path, opened: Any) -> None:
    page = opened(build_report(folder))
    legend = page.locator("#block-1-kept .u-legend")
    assert "39" in legend.inner_text()  # nobody points: the last step
    plot = page.locator("#block-1-kept .u-over")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2)
    assert "0.800" in legend.inner_text()
    assert page.locator("#block-1-kept .told").inner_text() == "line 2"
    assert "0.500" in page.locator("#block-2-mix .u-legend").inner_text()
    assert page.locator("#block-2-mix .told").inner_text() == "line 3"


def test_names_of_near_levels_are_not_over_each_other(make_run: Any, opened: Any) -> None:
    run = make_run(blocks=("a",), fields=[*FIELDS, "skipped"], certificate={"r_min": 0.47})
    spy = """window.names = [];
      const { prototype } = CanvasRenderingContext2D;
      const { fillText } = prototype;
      prototype.fillText = function (text, x, y) {
        if (/ 0\\.\\d\\d$/.test(text)) window.names.push([text, this.textAlign, y]);
        fillText.apply(this, arguments);
      };"""
    names = opened(build_report(run), first=spy).evaluate("window.names")
    assert {text for text, _, _ in names} == {"suppressing 0.45", "strongly 0.35", "r_min 0.47"}
    at = {text: (side, y) for text, side, y in names}  # as drawn last
    for one, (side, y) in at.items():
        assert all(abs(y - b) > 12 for text, (a, b) in at.items() if text != one and a == side)


def test_pointing_at_an_event_tells_it(folder: Path, opened: Any) -> None:
    page = opened(build_report(folder))
    plot = page.locator("#block-2-kept .u-over")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 5 / 39, box["y"] + 20)
    assert "5: the rescue acts" in page.locator("#block-2-kept .told").inner_text()
    assert "0.300" in page.locator("#block-2-kept .u-legend").inner_text()


def test_a_drag_zooms_and_a_double_click_undoes_it(folder: Path, opened: Any) -> None:
    page = opened(build_report(folder))
    plot = page.locator("#block-1-mix .u-over")
    plot.scroll_into_view_if_needed()
    before = page.locator("#block-1-mix canvas").screenshot()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 60)
    page.mouse.up()
    page.mouse.move(0, 0)
    assert page.locator("#block-1-mix canvas").screenshot() != before
    plot.dblclick()
    page.mouse.move(0, 0)
    assert page.locator("#block-1-mix canvas").screenshot() == before


def test_charts_follow_the_theme_and_paper_is_white(folder: Path, opened: Any) -> None:
    def brightness() -> float:
        """Of the ink on the first chart, 0 to 255."""
        found: float = page.evaluate(
            """() => {
              const canvas = document.querySelector('#block-1-kept canvas');
              const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              let sum = 0, weight = 0;
              for (let i = 0; i < data.length; i += 4) {
                sum += (data[i] + data[i + 1] + data[i + 2]) / 3 * data[i + 3];
                weight += data[i + 3];
              }
              return sum / weight;
            }"""
        )
        return found

    def paper() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    page = opened(build_report(folder))
    light, white = brightness(), paper()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("getComputedStyle(document.body).color.startsWith('rgb(22')")
    dark = brightness()
    assert abs(dark - light) > 10
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert brightness() == pytest.approx(light, abs=2)
    assert paper() == white
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert brightness() == pytest.approx(dark, abs=2)
    assert paper() != white


def test_a_number_leads_to_its_row(folder: Path, opened: Any) -> None:
    page = opened(build_report(folder))
    page.locator("tbody a.from").first.click()
    row = page.locator("tr:target")
    assert row.is_visible()
    assert row.locator("th").inner_text() == "119"
    lines = (folder / "monitor.csv").read_text().splitlines()
    assert lines[119 - 1].startswith("39,19,9.75,a,")


def test_turkish_letters_are_whole(folder: Path, opened: Any) -> None:
    page = opened(build_report(folder, lang="tr"))
    assert page.evaluate("document.characterSet") == "UTF-8"
    words = page.locator("body").inner_text()
    assert {"ğüş.jpg", "Bloklar neye dikkat ediyor", "Maliyet"} <= set(words.splitlines())
    assert "�" not in words
    assert page.locator("#block-1-kept .told").inner_text() == ""
    assert "adım" in page.locator("#block-1-kept .u-legend").inner_text()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["run", "compare", "pictures"])
def test_no_serious_fault_of_accessibility(
    folder: Path, opened: Any, tmp_path: Path, kind: str, dark: bool
) -> None:
    pages = {
        "run": lambda: build_report(folder),
        "compare": lambda: build_comparison(
            [folder, shutil.copytree(folder, tmp_path / "b")], tmp_path
        ),
        "pictures": lambda: build_pictures(folder, name="best.pt"),
    }
    page = opened(pages[kind](), dark=dark)
    page.locator("details").evaluate_all("(all) => all.forEach((one) => one.open = true)")
    found = Axe().run(page).response["violations"]
    serious = [
        (fault["id"], [node["html"][:120] for node in fault["nodes"][:3]])
        for fault in found
        if fault["impact"] in {"serious", "critical"}
    ]
    assert serious == []


def test_runs_side_by_side(folder: Path, opened: Any, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other" / "coordcbam")
    page = opened(build_comparison([folder, other], tmp_path), width=390)
    assert charts(page) == page.locator(".chart").count() == 2 + 2 + 3
    assert min(inked(page)) > 500
    assert "other" in page.locator("#kept-0 .u-legend").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
