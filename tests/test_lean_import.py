"""Importing the package costs nothing, and the rooms that need no torch do not load it."""

import pytest

from _support import fresh

HEAVY = ("torch", "matplotlib", "ultralytics", "jinja2", "sklearn", "numpy", "PIL", "triton")


def loaded(code, environment):
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    modules = fresh.run(script, environment)
    return {name.partition(".")[0] for name in modules} & set(HEAVY)


def test_the_probe_sees_what_is_loaded(child_environment):
    assert "numpy" in loaded("import numpy", child_environment)


@pytest.mark.parametrize(
    "code",
    [
        "import coordcbam",
        "import coordcbam; coordcbam.__version__, dir(coordcbam), coordcbam.__all__",
        "import coordcbam._support.errors, coordcbam._support.files",
        "import coordcbam.records",
    ],
)
def test_nothing_heavy(code, child_environment):
    assert loaded(code, child_environment) == set()


@pytest.mark.parametrize("room", ["report", "data"])
def test_reports_and_data_do_without_torch(room, child_environment):
    assert not loaded(f"import coordcbam.{room}", child_environment) & {"torch", "ultralytics"}


def test_the_block_does_without_ultralytics(child_environment):
    code = "import coordcbam as cc; cc.CoordCBAM, cc.insert_, cc.Monitor, cc.CBAMChannelPlusCoord"
    found = loaded(code, child_environment)
    assert "torch" in found
    assert not found & {"ultralytics", "matplotlib", "sklearn", "jinja2"}


@pytest.mark.parametrize(
    "code",
    [
        "import coordcbam as cc; [getattr(cc, name) for name in cc.__all__]",
        "import coordcbam.preflight.table, coordcbam.bench.table",
        "from coordcbam.preflight import preflight",
    ],
)
def test_loading_draws_no_random_numbers(code, child_environment):
    state = "(random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist())"
    script = f"import json, random, numpy, torch\nbefore = {state}\n{code}\nprint(json.dumps(before == {state}))"
    assert fresh.run(script, child_environment)
