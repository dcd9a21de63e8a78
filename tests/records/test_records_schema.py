import json
import math
from datetime import datetime

import pytest

from coordcbam._support.errors import UsageError
from coordcbam.records import FORMAT, Place, RunInfo


def test_a_run_info_survives_json():
    info = RunInfo(
        host="ultralytics",
        places=(Place(path="model.16", channels=64, parameters=321),),
        config={"preset": "step2", "ca": {"beta": 0.35}, "spatial": None},
        versions={"torch": "2.9"},
        command="train data=x",
        status="finished",
        result={"mAP50": 0.5},
        notes=("499/499 kept",),
    )
    text = json.dumps(info.to_dict(), allow_nan=False)
    assert RunInfo.from_dict(json.loads(text)) == info
    assert json.loads(text)["format"] == FORMAT


def test_non_finite_results_are_strict_json_and_come_back():
    info = RunInfo(host="h", places=(), config={}, versions={}, result={"a": math.nan, "b": -1e999})
    back = RunInfo.from_dict(json.loads(json.dumps(info.to_dict(), allow_nan=False)))
    assert math.isnan(back.result["a"])
    assert back.result["b"] == -math.inf


def test_foreign_objects_and_bad_bytes_become_text():
    info = RunInfo(host="h", places=(), config={"p": {1}, 2: (3,)}, versions={}, command="\udcff")
    raw = info.to_dict()
    assert raw["config"] == {"p": "{1}", "2": [3]}
    assert raw["command"].encode() == b"\\udcff"


def test_started_is_an_iso_time_with_a_zone_and_unknown_in_old_files():
    assert datetime.fromisoformat(
        RunInfo(host="h", places=(), config={}, versions={}).started
    ).tzinfo
    assert RunInfo.from_dict({"host": "h"}).started == ""


def test_unknown_keys_are_ignored_and_absent_ones_defaulted():
    info = RunInfo.from_dict({"host": "h", "mood": 1, "places": [{"path": "m", "size": 2}]})
    assert info.places == (Place(path="m", channels=0, parameters=0),)
    assert (info.status, info.config, info.notes) == ("running", {}, ())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"format": FORMAT + 1}, "upgrade coordcbam"),
        ({"places": [{}]}, "KeyError: 'path'"),
        ({"places": 3}, "TypeError"),
        ({"config": 3}, "TypeError"),
        ({"versions": []}, "AttributeError"),
        ({"result": {"mAP": "high"}}, "ValueError"),
        ({"status": "asleep"}, "RunInfo.status='asleep': expected one of 'running'"),
    ],
)
def test_what_cannot_be_read_is_one_line(raw, words):
    with pytest.raises(UsageError) as caught:
        RunInfo.from_dict(raw)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
