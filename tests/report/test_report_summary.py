from coordcbam.records import RunInfo, RunWriter, read_run
from coordcbam.report import build_report
from coordcbam.report.summary import guarantees, missing, score, sentences
from coordcbam.report.words import Words

CAUTION = "the monitor is an alarm, not a score: a higher ratio does not mean a better detector."


def test_a_quiet_run(make_run):
    assert sentences(read_run(make_run()), Words()) == [
        "2 blocks (model.16 and model.19) were read at 6 steps, from 0 to 5.",
        "No block fell below 0.45 and no rescue was active.",
        f"The last mAP50-95 is 0.100; {CAUTION}",
    ]


def test_one_block_that_dips_and_is_rescued(make_run):
    folder = make_run(
        ratio=lambda block, step: 0.4 - step / 100 if block == "model.19" and step < 4 else 0.8,
        alpha_eff=lambda block, step: 0.3 if block == "model.19" and step in {2, 3} else 0.5,
    )
    assert sentences(read_run(folder), Words())[1] == (
        "model.19 fell below 0.45 (lowest 0.370, at step 3); "
        "the rescue of model.19 was active at 2 readings, first at step 2."
    )


def test_several_blocks_are_counted(make_run):
    folder = make_run(
        blocks=list("abcd"),
        steps=[7],
        ratio=lambda block, _: {"a": 0.3, "b": 0.2}.get(block, 0.9),
        alpha_eff=lambda block, _: 0.5 if block == "c" else 0.4,
    )
    first, second, _ = sentences(read_run(folder), Words())
    assert first == "4 blocks were read at step 7."
    assert second == (
        "2 blocks fell below 0.45 (lowest 0.200: b, at step 7); "
        "the rescue was active in 3 blocks, first in a at step 7."
    )


def test_a_rescue_without_a_dip(make_run):
    folder = make_run(blocks=["a"], steps=[3], alpha_eff=lambda _block, _step: 0.4)
    assert sentences(read_run(folder), Words())[1] == (
        "No block fell below 0.45; the rescue of a was active at 1 reading, first at step 3."
    )


def test_the_result_goes_before_the_last_epoch(make_run):
    folder = make_run(result={"mAP50": 0.9, "mAP50-95": 0.7})
    assert sentences(read_run(folder), Words())[2].startswith("The final mAP50-95 is 0.700;")
    folder = make_run()
    assert sentences(read_run(folder), Words())[2].startswith("The last mAP50-95 is 0.100;")
    folder = make_run(epochs=0, result={"mAP50": 0.9})
    (folder / "metrics.csv").unlink()
    assert sentences(read_run(folder), Words())[2].startswith("The final mAP50 is 0.900;")


def test_only_a_precision_that_was_validated_is_the_score():
    assert score({"train/map": 0.9, "val/map": 0.3}) == ("map", 0.3)
    assert score({"train/heatmap_loss": 1.5}) is None


def test_a_name_that_is_no_text_is_spelled_out(make_run):
    folder = make_run(notes=["a \ud800 b"])
    assert "a \\ud800 b" in build_report(folder).read_text(encoding="utf-8")


def test_without_a_reading_nothing_is_said_about_alarms(tmp_path):
    RunWriter(tmp_path, RunInfo(host="h", places=(), config={}, versions={}), []).close()
    first, last = sentences(read_run(tmp_path), Words())
    assert first == "No block has been read."
    assert last == CAUTION.replace("the", "The", 1)


def test_what_is_missing_is_said(make_run):
    assert missing(read_run(make_run()), Words()) == []
    folder = make_run(status="failed", epochs=0)
    path = folder / "monitor.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    (folder / "metrics.csv").unlink()
    assert missing(read_run(folder), Words()) == [
        "The run failed; its last note may say why.",
        "Never read: model.19.",
        "No metrics per epoch are recorded: there are no mAP and loss curves.",
    ]


def test_a_name_that_a_cut_line_has_made_up_is_told(make_run):
    folder = make_run()
    path = folder / "monitor.csv"
    lines = path.read_text().splitlines()
    at = lines[0].split(",").index("block")
    cells = lines[-1].split(",")
    cells[at] = cells[at][:-1]
    path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    assert missing(read_run(folder), Words()) == [f"Read, but not inserted: {cells[at]}."]


def test_a_certificate_that_is_not_whole_is_no_error():
    assert guarantees({}, Words()) == ""
    assert guarantees({"gain_min": None, "r_min": 0.9}, Words()) == "the rescue acts under 0.900"
    assert (
        guarantees({"gain_min": 0.5, "gain_max": 1.0}, Words())
        == "every gain lies in [0.500, 1.000]"
    )
