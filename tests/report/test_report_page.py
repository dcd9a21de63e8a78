"""The page of a run: complete, self-contained, escaped, and there for whatever could be read."""

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from random import Random

import pytest

from coordcbam._support.errors import MissingExtraError, UsageError
from coordcbam.records import Picture, RunInfo, RunWriter, write_pictures
from coordcbam.report import build_report
from coordcbam.report.page import EMBEDDED

VOID = {"meta", "br", "link", "img"}
PIXEL = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")  # head and tail of a JPEG


class Outline(HTMLParser):
    """Checks that tags nest, and keeps ids, attributes that load things, and visible text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.loads, self.text = [], Counter(), [], []
        self.tags = Counter()
        self.data = ""
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
        if self.open[-1:] == ["script"]:
            self.data = self.data or data
        elif "style" not in self.open:
            self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())

    def charts(self):
        return {chart["id"]: chart for chart in json.loads(self.data)["charts"]}


def outline(folder, out=None, **options):
    return Outline(build_report(folder, out, **options).read_text(encoding="utf-8"))


def test_the_page_loads_nothing(make_run):
    page = build_report(make_run()).read_text(encoding="utf-8")
    seen = Outline(page)
    assert seen.tags["link"] == seen.tags["img"] == seen.tags["iframe"] == 0
    assert all(target.startswith(("#", "monitor.csv#row=")) for target in seen.loads)
    assert "@import" not in page
    assert not re.findall(r"url\((?!data:)", page)
    assert re.findall(r"https?://[^\"'\s<]+", page) == ["https://github.com/leeoniya/uPlot"]


def test_every_chart_has_its_place_and_its_numbers(make_run):
    seen = outline(make_run())
    assert sorted(seen.charts()) == [
        "block-1-kept",
        "block-1-mix",
        "block-2-kept",
        "block-2-mix",
        "loss-train",
        "loss-val",
        "map",
    ]
    assert set(seen.charts()) <= set(seen.ids)
    kept = seen.charts()["block-1-kept"]
    assert {line["name"]: line["values"] for line in kept["lines"]} == {
        "r_out_pre": [0.75] * 6,
        "r_ema": [0.6] * 6,
    }
    assert [name for name, _, _ in kept["levels"]] == ["suppressing", "strongly"]
    assert [line["name"] for line in seen.charts()["map"]["lines"]] == ["mAP50", "mAP50-95"]
    assert seen.charts()["map"]["lines"][1]["values"] == [None, 0.05, 0.1]


def test_ids_are_unique_and_links_have_their_aim(make_run):
    seen = outline(make_run(ratio=lambda _, step: 0.3 if step == 2 else 0.8))
    assert [name for name, count in seen.ids.items() if count > 1] == []
    inside = {target[1:] for target in seen.loads if target.startswith("#")}
    assert inside
    assert inside <= set(seen.ids)


def test_every_reading_leads_to_its_line_of_the_csv(make_run):
    folder = make_run(blocks=["a", "b"], ratio=lambda block, step: step / 10 + (block == "b") / 100)
    seen = outline(folder)
    lines = (folder / "monitor.csv").read_text().splitlines()
    cited = sorted(int(name.removeprefix("line-")) for name in seen.ids if name.startswith("line-"))
    assert cited == [2, 3, 12, 13]  # the lowest of each block and the last
    assert [lines[line - 1].split(",")[3] for line in cited] == ["a", "b", "a", "b"]
    assert "#line-12" in seen.loads
    data = json.loads(seen.data)
    axis = data["axes"][seen.charts()["block-2-kept"]["axis"]]
    values = seen.charts()["block-2-kept"]["lines"][0]["values"]
    header = lines[0].split(",").index("r_out_pre")
    read = [float(lines[row - 1].split(",")[header]) for row in axis["rows"]]
    assert read == pytest.approx(values, rel=1e-4)


def test_events_are_marked_on_the_same_steps(make_run):
    folder = make_run()
    events = [
        {"step": 1, "block": "model.16", "kind": "rescue", "message": "the rescue acts"},
        {"step": 4, "block": "model.16", "kind": "rescue_ended", "message": "ended"},
        {"step": 5, "block": "model.16", "kind": "skipped", "message": "a batch"},
        {"step": 5, "block": "model.19", "kind": "rescue", "message": "still"},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    data = json.loads(outline(folder).data)
    first, second = (data["axes"][c["axis"]]["events"] for c in data["charts"][0:4:2])
    assert first == [[1, 4, "rescue", "the rescue acts"], [5, None, "skipped", "a batch"]]
    assert second == [[5, None, "rescue", "still"]]
    assert data["charts"][0]["axis"] == data["charts"][1]["axis"]


def write_events(folder, *events):
    names = ("step", "block", "kind", "message")
    rows = [dict(zip(names, event, strict=True)) for event in events]
    (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_rescue_whose_end_a_kill_has_lost_ends_where_the_readings_say(make_run):
    folder = make_run(
        blocks=["b"], steps=range(10), alpha_eff=lambda _, step: 0.3 if step in {2, 3, 7} else 0.5
    )
    write_events(
        folder, (2, "b", "rescue", "on"), (7, "b", "rescue", "on"), (8, "b", "rescue_ended", "")
    )
    data = json.loads(outline(folder).data)
    assert [mark[:2] for mark in data["axes"][0]["events"]] == [[2, 4], [7, 8]]


def test_of_too_many_events_the_rescues_are_marked_first(make_run):
    folder = make_run(blocks=["b"], steps=range(0, 4000, 10))
    skips = [(step, "b", "skipped", "x") for step in range(400)]
    pairs = [
        event
        for step in range(1000, 3000, 20)
        for event in ((step, "b", "rescue", "on"), (step + 5, "b", "rescue_ended", ""))
    ]
    write_events(folder, *skips, *pairs)
    marks = json.loads(outline(folder).data)["axes"][0]["events"]
    assert len(marks) == 300
    assert [mark[:2] for mark in marks if mark[2] == "rescue"] == [
        [step, step + 5] for step in range(1000, 3000, 20)
    ]


def test_a_run_without_a_finite_reading_gets_no_all_clear(make_run):
    folder = make_run(ratio=lambda _b, _s: math.nan, fields=["r_out_pre", "alpha", "alpha_eff"])
    words = outline(folder).words()
    assert "No reading of a block is finite: nothing can be said" in words
    assert "No block fell below" not in words
    folder = make_run(ratio=lambda b, s: math.nan if (b, s) == ("model.19", 5) else 0.8)
    assert "Not finite at the end: model.19; No block fell below 0.45" in outline(folder).words()


def test_one_row_without_a_number_hides_no_dip(make_run):
    fields = ["rho", "r_out_pre", "alpha", "alpha_eff", "skipped"]
    folder = make_run(blocks=["b"], fields=fields, ratio=lambda _b, _s: 0.9)
    lines = (folder / "monitor.csv").read_text().splitlines()
    lines[3] = ",".join([*lines[3].split(",")[:4], "0.2", "0.9", "0.5", "0.5", "0.0"])
    lines[-1] = ",".join([*lines[-1].split(",")[:4], *["nan"] * 5])
    (folder / "monitor.csv").write_text("\n".join(lines) + "\n")
    assert "b fell below 0.45 (lowest 0.200, at step 2)" in outline(folder).words()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.csv", "epoch,mAP50\nnan,0.1\ninf,0.1\n0,1.7e308\n"),
        ("events.jsonl", '{"step": 1e999}\n' + "[" * 100_000 + "\n"),
        ("pictures.json", "[" * 100_000),
        ("monitor.csv", "step,block,rho,line,rho\n1,b,-1.7e308,1,2\n2,b,1.7e308,1,2\n"),
        ("monitor.csv", "\ufeffstep,block,rho\n1,b,0.5\n99999999999999999999999,b,0.5\n"),
    ],
)
def test_odd_records_are_still_a_page(name, text, make_run):
    folder = make_run()
    (folder / name).write_text(text, encoding="utf-8")
    words = outline(folder).words()
    if name == "monitor.csv":
        assert "b no reading" in words or "b healthy" in words or "b suppressing" in words


def test_nothing_but_a_page_is_overwritten(make_run, tmp_path):
    folder = make_run()
    records = (folder / "monitor.csv").read_bytes()
    with pytest.raises(UsageError, match="cannot be written"):
        build_report(folder, folder / "monitor.csv")
    assert (folder / "monitor.csv").read_bytes() == records
    link = tmp_path / "link.html"
    link.symlink_to(tmp_path / "there.html")
    build_report(folder, link)
    assert link.is_symlink()
    assert (tmp_path / "there.html").is_file()
    assert build_report(folder, tmp_path / "new folder") == tmp_path / "new folder" / "report.html"
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(UsageError, match="no page to replace"):
        build_report(folder, tmp_path / "pipe.html")


def test_the_page_is_the_same_whenever_it_is_built(make_run):
    folder = make_run()
    first = build_report(folder).read_bytes()
    assert build_report(folder.parent).read_bytes() == first


def test_the_page_says_what_ran(make_run):
    cost = {"parameters": 3000.0, "parameters_model": 2e6, "flops": 1e7, "flops_model": 1e9}
    words = outline(
        make_run(command="train x=1", notes=("499/499 kept",), cost={**cost, "imgsz": 640.0})
    ).words()
    for part in (
        "train7",
        "finished",
        "host torch",
        "2026-01-02 03:04 UTC",
        "3,000 added, 0.15 % of the model's 2,000,000",
        "0.01 GFLOPs added, 1.00 % of the model's 1 GFLOPs (one image of 640 pixels)",
        "0.250 s, all of it, by the clock of monitor.csv",
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
    evil = "<script>alert('$x$')</script>&\"'</style>"
    folder = make_run(
        blocks=(evil, "../../etc"),
        host=evil,
        config={"preset": evil, evil: {evil: evil}},
        versions={evil: evil},
        command=evil,
        notes=(evil,),
        started=evil,
    )
    event = {"block": evil, "kind": evil, "message": evil}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    (folder / "metrics.csv").write_text(
        'epoch,"<i>$loss_{</i>",$\\alpha$map,损失loss\n0,1.0,0.5,1.0\n', encoding="utf-8"
    )
    (folder / "e.jpg").write_bytes(PIXEL)
    write_pictures(folder, [Picture(image=evil, block=evil, stage="now", file="e.jpg", note=evil)])
    seen = outline(folder)
    assert seen.tags["script"] == 3  # the numbers, the library, ours
    assert seen.tags["i"] == 0
    assert evil in "".join(seen.text)
    assert {"<i>$loss_{</i>", "损失loss"} <= {
        line["name"] for chart in seen.charts().values() for line in chart["lines"]
    }


def test_twenty_blocks_with_three_hundred_epochs_stay_small(make_run):
    random = Random(0)
    folder = make_run(
        blocks=[f"model.{i}.m" for i in range(20)],
        steps=range(0, 3000, 10),
        ratio=lambda _block, _step: random.random(),
        epochs=300,
        fields=["r_out_pre", "rho", "rms", "r_ema", "alpha", "alpha_eff", "T", "fusion_avg"],
    )
    page = build_report(folder)
    assert page.stat().st_size < 2_000_000
    assert len(Outline(page.read_text(encoding="utf-8")).charts()) == 63


def test_pictures_are_in_the_page_until_its_budget_is_spent(make_run):
    folder = make_run(blocks=["a"])
    (folder / "pictures").mkdir()
    (folder / "pictures" / "1.jpg").write_bytes(PIXEL)
    (folder / "pictures" / "2.jpg").write_bytes(PIXEL.ljust(EMBEDDED, b"\0"))
    (folder.parent / "outside.jpg").write_bytes(PIXEL)
    kept = {"kept": ((3, 1.5),), "cut": ((7, 0.25),), "gain": (0.5, 1.0, 1.5)}
    write_pictures(
        folder,
        [
            Picture(image="x.jpg", block="a", stage="before", file="pictures/1.jpg", **kept),
            Picture(image="x.jpg", block="a", stage="after", file="pictures/2.jpg", objects=1.25),
            Picture(image="y.jpg", block="a", stage="now", file="../outside.jpg", note="no labels"),
            Picture(image="z.jpg", block="a", stage="now", file="pictures/gone.jpg"),
        ],
    )
    seen = outline(folder)
    assert seen.tags["img"] == 1
    assert sum(target.startswith("data:image/jpeg;base64,") for target in seen.loads) == 1
    words = seen.words()
    for part in (
        "before training",
        "gain 0.500 to 1.500, mean 1.000",
        "channels kept most: 3 (1.50)",
        "channels cut most: 7 (0.25)",
        "In pictures/2.jpg.",
        "on objects 1.250, elsewhere –",
        "no labels",
        "In pictures/gone.jpg.",
    ):
        assert part in words


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
    assert len(outline(folder).charts()) >= 5


def test_nan_only_is_no_reading(make_run):
    folder = make_run(blocks=["b"], ratio=lambda _b, _s: math.nan, fields=["r_out_pre"], epochs=0)
    seen = outline(folder)
    assert seen.tags["figure"] == seen.tags["script"] == 0
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
    (folder / "pictures.json").write_text("{")
    words = outline(folder).words()
    assert "run.json is missing" in words
    assert "monitor.csv: the last line is torn and was skipped" in words
    assert "pictures.json is not readable" in words
    assert "No inserted block is recorded." in words


def test_many_rows_are_thinned_and_the_dip_stays(make_run):
    random = Random(0)
    noise = [random.uniform(0.6, 0.9) for _ in range(5000)]

    def ratio(_, step):
        return 0.1234 if step == 2345 else noise[step]

    folder = make_run(blocks=["b"], steps=range(5000), ratio=ratio)
    seen = outline(folder)
    assert "b fell below 0.45 (lowest 0.123, at step 2,345)" in seen.words()
    assert "worst, at step 2,345 suppressing strongly" in seen.words()
    (values,) = (
        line["values"]
        for line in seen.charts()["block-1-kept"]["lines"]
        if line["name"] == "r_out_pre"
    )
    assert 100 < len(values) < 1100
    assert min(values) == 0.1234


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
    assert build_report(folder, tmp_path) == tmp_path / "report.html"


def test_a_page_of_a_run_that_goes_on_loads_itself_again(make_run):
    folder = make_run()
    assert 'http-equiv="refresh"' not in build_report(folder).read_text()
    assert '<meta http-equiv="refresh" content="5">' in build_report(folder, refresh=5).read_text()


def test_no_run_no_language_and_no_package_are_one_line(tmp_path, make_run, monkeypatch):
    with pytest.raises(UsageError, match="give the save_dir"):
        build_report(tmp_path)
    folder = make_run()
    with pytest.raises(UsageError, match="lang='xx'"):
        build_report(folder, lang="xx")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        MissingExtraError, match=r"the report needs 'jinja2': .*coordcbam\[report\]"
    ):
        build_report(folder)


def test_importing_is_cheap_and_building_needs_no_torch(make_run):
    code = (
        "import sys, pathlib, coordcbam.report as report\n"
        "assert not {'jinja2', 'polars'} & set(sys.modules)\n"
        "report.build_report(pathlib.Path(sys.argv[1]))\n"
        "assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(make_run())], check=True)


def test_a_rescue_of_ours_is_drawn_with_its_own_measure_and_threshold(make_run):
    fields = ["r_out_pre", "rho", "r_ema", "alpha", "alpha_eff", "skipped"]
    folder = make_run(blocks=["b"], fields=fields, certificate={"r_min": 0.78})
    seen = outline(folder)
    assert "Under r_min the rescue acts." in seen.words()
    kept = seen.charts()["block-1-kept"]
    assert ["r_min", 0.78, "green"] in kept["levels"]
    assert {"rho", "r_ema"} <= {line["name"] for line in kept["lines"]}


def test_the_page_in_turkish_is_turkish(make_run):
    folder = make_run(ratio=lambda _b, step: 0.3 if step == 3 else 0.8, alpha_eff=lambda *_: 0.4)
    path = folder / "monitor.csv"
    path.write_bytes(path.read_bytes()[:-5])
    page = build_report(folder, lang="tr").read_text(encoding="utf-8")
    assert '<html lang="tr">' in page
    words = Outline(page).words()
    for part in (
        "çalıştırma raporu",
        "2 blok (model.16 ve model.19), 0. adımdan 5. adıma kadar 6 adımda ölçüldü.",
        "güçlü bastırıyor",
        "Bloklar neye dikkat ediyor",
        "son satır yarım kalmış, atlandı",
    ):
        assert part in words
    english = ("The ", "block by", "healthy", "rescue was", "Training", "reading")
    assert [word for word in english if word in words] == []
