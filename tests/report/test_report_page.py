import json
import math
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from random import Random
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from coordcbam._support.errors import MissingExtraError, UsageError
from coordcbam.records import RunInfo, RunWriter
from coordcbam.report import build_report

VOID = {"meta", "br", "link", "img"}


class Outline(HTMLParser):
    """Checks that tags nest, and keeps ids, attributes that load things, and visible text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.loads, self.text = [], Counter(), [], []
        self.tags = Counter()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        self._note(attributes)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        self._note(attributes)

    def _note(self, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids[value] += 1
            if name in {"src", "href", "xlink:href", "srcset", "data", "action"}:
                self.loads.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())


def outline(folder, out=None):
    return Outline(build_report(folder, out).read_text(encoding="utf-8"))


def test_the_page_loads_nothing(make_run):
    page = build_report(make_run()).read_text(encoding="utf-8")
    seen = Outline(page)
    assert seen.tags["script"] == seen.tags["link"] == seen.tags["img"] == 0
    assert all(target.startswith("#") for target in seen.loads)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_every_figure_is_drawn_once_and_saved_as_xml(make_run):
    folder = make_run()
    seen = outline(folder)
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert names == [
        "block-01-model.16-alpha.svg",
        "block-01-model.16-ratio.svg",
        "block-02-model.19-alpha.svg",
        "block-02-model.19-ratio.svg",
        "loss-train.svg",
        "loss-val.svg",
        "map.svg",
    ]
    assert seen.tags["svg"] == len(names)
    for path in (folder / "figures").iterdir():
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        assert root.get("viewBox")
        assert root.get("width") is None


def test_ids_are_unique_although_figures_share_a_page(make_run):
    seen = outline(make_run())
    assert seen.ids
    assert [name for name, count in seen.ids.items() if count > 1] == []
    assert {target[1:] for target in seen.loads} <= set(seen.ids)


def test_alarm_lines_and_curves_are_labelled(make_run):
    folder = make_run()
    build_report(folder)
    ratio = (folder / "figures" / "block-01-model.16-ratio.svg").read_text()
    for label in ("0.45 suppressing", "0.35 strongly", "r_out_pre", "r_ema"):
        assert f">{label}</text>" in ratio
    share = (folder / "figures" / "block-01-model.16-alpha.svg").read_text()
    assert "taken by the rescue" not in share
    map_ = (folder / "figures" / "map.svg").read_text()
    assert ">mAP50-95</text>" in map_
    assert ">mAP50</text>" in map_


def test_the_rescue_is_shaded_where_it_took_something(make_run):
    folder = make_run(alpha_eff=lambda block, _: 0.4 if block == "model.19" else 0.5)
    build_report(folder)
    share = (folder / "figures" / "block-02-model.19-alpha.svg").read_text()
    assert "taken by the rescue" in share


def test_a_single_step_is_one_dot_with_one_label(make_run):
    folder = make_run(blocks=["b"], steps=[12_500], epochs=1)
    build_report(folder)
    ratio = (folder / "figures" / "block-01-b-ratio.svg").read_text()
    assert ratio.count(">12.5k</text>") == 1
    assert "<use" in ratio  # the dot
    assert (folder / "figures" / "map.svg").read_text().count(">0</text>") == 1


def test_the_page_is_the_same_whenever_and_however_it_is_built(make_run):
    folder = make_run()
    first = build_report(folder).read_bytes()
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert build_report(folder.parent).read_bytes() == first
    assert dict(mpl.rcParams) == before


def test_the_page_says_what_ran(make_run):
    words = outline(make_run(command="train x=1", notes=("499/499 kept",))).words()
    for part in (
        "train7",
        "finished",
        "host torch",
        "2026-01-02 03:04 UTC",
        "3,000 in all",
        "step2",
        "rescue.r_min 0.45",
        "torch 2.9",
        "train x=1",
        "499/499 kept",
        "began",
        "none found while reading",
    ):
        assert part in words


def test_every_name_is_escaped(make_run):
    evil = "<script>alert('$x$')</script>&\"'"
    folder = make_run(
        blocks=(evil, "../../etc"),
        host=evil,
        config={"preset": evil, evil: {evil: evil}},
        versions={evil: evil},
        command=evil,
        notes=(evil,),
        started=evil,
    )
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"block": evil, "kind": evil, "message": evil}) + "\n")
    (folder / "metrics.csv").write_text(
        'epoch,"<i>$loss_{</i>",$\\alpha$map,损失loss\n0,1.0,0.5,1.0\n', encoding="utf-8"
    )
    seen = outline(folder)
    assert seen.tags["script"] == seen.tags["i"] == 0
    assert evil in "".join(seen.text)
    assert "<i>$loss_{</i>" in seen.words()
    assert "损失loss" in seen.words()
    assert r">$\alpha$map</text>" in (folder / "figures" / "map.svg").read_text()
    assert {path.parent for path in folder.rglob("*.svg")} == {folder / "figures"}


def test_twenty_blocks_have_forty_figures(make_run):
    seen = outline(make_run(blocks=[f"model.{i}.m" for i in range(20)], steps=range(3)))
    assert seen.tags["svg"] == 43
    assert "20 blocks were read at 3 steps, from 0 to 2." in seen.words()


def test_a_run_before_its_first_reading_is_a_page(tmp_path):
    run = RunInfo(host="h", places=(), config={}, versions={})
    RunWriter(tmp_path / "r", run, ["alpha"]).close()
    words = outline(tmp_path / "r").words()
    assert "still going, or it was killed: this page shows it before its first reading." in words
    assert "No reading of a block is recorded" in words
    assert "No metrics per epoch are recorded" in words
    assert "There is no block." in words


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_numbers_that_cannot_be_drawn_are_still_a_page(make_run, value):
    folder = make_run(ratio=lambda _block, _step: value, alpha_eff=lambda _block, _step: value)
    assert outline(folder).tags["svg"] >= 5


def test_nan_only_is_no_reading(make_run):
    folder = make_run(blocks=["b"], ratio=lambda _b, _s: math.nan, fields=["r_out_pre"], epochs=0)
    seen = outline(folder)
    assert seen.tags["svg"] == 0
    assert "b no reading 64 1,500 –" in seen.words()
    assert "Nothing to draw" in seen.words()


@pytest.mark.parametrize("fields", [[], ["T"], ["alpha"], ["r_ema"], ["alpha_eff", "r_out_pre"]])
def test_absent_columns_are_still_a_page(make_run, fields):
    assert "model.16" in outline(make_run(fields=fields)).words()


def test_a_run_cut_short_is_a_page_with_its_problems(make_run):
    folder = make_run()
    (folder / "run.json").unlink()
    path = folder / "monitor.csv"
    path.write_bytes(path.read_bytes()[:-5])
    words = outline(folder).words()
    assert "run.json is missing" in words
    assert "monitor.csv: the last line is torn and was skipped" in words
    assert "No inserted block is recorded." in words


def test_many_rows_are_thinned_and_the_dip_stays(make_run):
    random = Random(0)
    noise = [random.uniform(0.6, 0.9) for _ in range(5000)]

    def ratio(_, step):
        return 0.1234 if step == 2345 else noise[step]

    folder = make_run(blocks=["b"], steps=range(5000), ratio=ratio)
    words = outline(folder).words()
    assert "b fell below 0.45 (lowest 0.123, at step 2,345)" in words
    assert "worst, at step 2,345 suppressing strongly" in words
    ratio_svg = (folder / "figures" / "block-01-b-ratio.svg").read_text()
    assert ratio_svg.count("\nL ") < 1100


def test_many_events_are_cut_with_a_line_that_says_so(make_run):
    folder = make_run()
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": i, "kind": "tick"}) + "\n" for i in range(300))
    seen = outline(folder)
    assert seen.words().count("tick") == 199
    assert "101 later ones are in events.jsonl" in seen.words()


def test_the_page_goes_where_it_is_sent(make_run, tmp_path):
    folder = make_run()
    assert build_report(folder) == folder / "report.html"
    assert build_report(folder, tmp_path / "new" / "x.html") == tmp_path / "new" / "x.html"
    assert (tmp_path / "new" / "figures" / "map.svg").is_file()
    assert build_report(folder, tmp_path) == tmp_path / "report.html"


def test_no_run_and_no_package_are_one_line(tmp_path, make_run, monkeypatch):
    with pytest.raises(UsageError, match="give the save_dir"):
        build_report(tmp_path)
    folder = make_run()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        MissingExtraError, match=r"the report needs 'jinja2': .*coordcbam\[report\]"
    ):
        build_report(folder)


def test_importing_is_cheap_and_building_needs_neither_torch_nor_pyplot(make_run):
    code = (
        "import sys, pathlib, coordcbam.report as report\n"
        "assert not {'jinja2', 'matplotlib'} & set(sys.modules)\n"
        "report.build_report(pathlib.Path(sys.argv[1]))\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(make_run())], check=True)


def test_a_rescue_of_ours_is_drawn_with_its_own_measure_and_threshold(make_run):
    fields = ["r_out_pre", "rho", "r_ema", "alpha", "alpha_eff", "skipped"]
    folder = make_run(blocks=["b"], fields=fields, certificate={"r_min": 0.78})
    words = outline(folder).words()
    assert "Signal kept: <x, out> / <x, x>" in words
    assert "under r_min the rescue acts" in words
    ratio = (folder / "figures" / "block-01-b-ratio.svg").read_text()
    for label in ("0.78 r_min", "0.45 suppressing", "rho", "r_ema"):
        assert f">{label}</text>" in ratio
