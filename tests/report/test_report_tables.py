import math

from coordcbam.records import Place, read_run
from coordcbam.report.tables import flat, headings, last_readings, number, results, worst_reading
from coordcbam.report.words import Words


def test_the_last_reading_is_shown_with_its_verdict(make_run):
    folder = make_run(ratio=lambda block, step: 0.4 if (block, step) == ("model.19", 5) else 0.75)
    first, second = last_readings(read_run(folder))
    assert len(first.cells) == len(headings(Words()))
    assert [text for text, _ in first.cells[:9]] == [
        "64",
        "1,500",
        "0.600",
        "0.750",
        "–",
        "–",
        "0.600",
        "0.500",
        "0.500",
    ]
    assert first.cells[9] == ("0.600", "[0.600..0.600]")
    assert first.cells[10:] == (("–", ""), ("–", ""), ("–", ""))
    assert (first.verdict.text, second.verdict.text) == ("healthy", "suppressing")


def test_every_column_has_its_place(make_run):
    names = ["ca_mean", "ca_min", "ca_max", "fusion_avg", "fusion_max"]
    names += ["a_h_mean", "a_h_std", "a_w_mean", "a_w_std"]
    folder = make_run(blocks=["b"], fields=names)
    path = folder / "monitor.csv"
    header = path.read_text().splitlines()[0]
    path.write_text(f"{header}\n0,0,0,b,.1,.2,.3,.4,.5,.6,.7,.8,.9\n")
    (row,) = last_readings(read_run(folder))
    assert row.cells[9:] == (
        ("0.100", "[0.200..0.300]"),
        ("avg 0.400", "max 0.500"),
        ("0.600", "± 0.700"),
        ("0.800", "± 0.900"),
    )


def test_the_worst_reading_is_the_gravest_then_the_lowest(make_run):
    ratios = {0: math.nan, 1: 0.9, 2: 0.44, 3: 0.41, 4: 0.8, 5: math.nan}
    run = read_run(make_run(blocks=["b"], ratio=lambda _, step: ratios[step]))
    row, verdict = worst_reading(run, "b")
    assert (row.step, verdict.text) == (3, "suppressing")
    assert worst_reading(run, "elsewhere") is None


def test_of_equally_grave_readings_the_one_that_keeps_least(make_run):
    rescue = {0: 0.5, 1: 0.4, 2: 0.4, 3: 0.4}  # first active at step 1, lowest at step 2
    ratios = {0: 0.75, 1: 0.74, 2: 0.6, 3: 0.7}
    folder = make_run(
        blocks=["b"],
        steps=range(4),
        ratio=lambda _, step: ratios[step],
        alpha_eff=lambda _, step: rescue[step],
    )
    row, verdict = worst_reading(read_run(folder), "b")
    assert (row.step, verdict.level) == (2, "warn")


def test_numbers_for_people():
    assert number(math.inf) == "inf"
    assert number(0.0) == "0.000"
    assert number(-0.5) == "-0.500"
    assert number(1e30) == "1e+30"


def test_options_are_flat_texts():
    assert flat({"a": {"b": {"c": [1, None]}, "d": {}}, "e": False}, Words()) == [
        ("a.b.c", "1, none"),
        ("a.d", "{}"),
        ("e", "no"),
    ]


def test_results_fall_back_to_the_last_epoch(make_run):
    folder = make_run()
    assert ("metrics/mAP50(B)", "0.2000") in results(read_run(folder))[0]
    assert results(read_run(folder))[1] == "metrics.csv:4"
    folder = make_run(result={"mAP50": 0.5})
    assert results(read_run(folder)) == ([("mAP50", "0.5000")], "run.json")


def test_unknown_channels_are_a_dash(make_run):
    folder = make_run(blocks=["b"], places=(Place(path="b", channels=0, parameters=7),))
    (row,) = last_readings(read_run(folder))
    assert row.cells[:2] == (("–", ""), ("7", ""))
