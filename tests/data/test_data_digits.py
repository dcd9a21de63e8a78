"""The digits set: what it contains, and that only a whole one is ever used."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from coordcbam._support.errors import UsageError
from coordcbam.data import DigitsConfig, digits, store

pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")
yaml = pytest.importorskip("yaml")

TINY = DigitsConfig(train=6, val=3, size=64)
MAKE_TINY = """
from pathlib import Path
import sys
from coordcbam.data import DigitsConfig, digits
print(digits(DigitsConfig(train=6, val=3, size=64), root=Path(sys.argv[1])))
"""
KILLED_AT_THE_FOURTH_PICTURE = """
import os
from coordcbam.data import scene
render, seen = scene.render, []
def dying(*args):
    seen.append(1)
    if len(seen) == 4:
        os._exit(9)
    return render(*args)
scene.render = dying
"""


def manifest_of(data: Path) -> dict:
    return json.loads((data.parent / "manifest.json").read_text("utf-8"))


def labels_of(path: Path) -> np.ndarray:
    return np.loadtxt(path, ndmin=2)


def python(code: str, root: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", code, str(root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny set for tests that only read."""
    return digits(TINY, root=tmp_path_factory.mktemp("read-only"))


@pytest.fixture
def own(tmp_path):
    """A tiny set for tests that change it."""
    return digits(TINY, root=tmp_path)


def test_layout_and_counts(made):
    folder = made.parent
    assert made.name == "data.yaml"
    assert made.is_absolute()
    assert folder.name == "digits-v1-train6-val3-size64-seed0"
    for split, count in (("train", 6), ("val", 3)):
        images = sorted(folder.glob(f"images/{split}/*"))
        labels = sorted(folder.glob(f"labels/{split}/*"))
        assert [path.stem for path in images] == [path.stem for path in labels]
        assert len(images) == count
        for path in images:
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((64, 64), "RGB")


def test_data_yaml_is_what_ultralytics_expects(made):
    assert yaml.safe_load(made.read_text("utf-8")) == {
        "path": str(made.parent),
        "train": "images/train",
        "val": "images/val",
        "names": {digit: str(digit) for digit in range(10)},
    }


def test_a_path_with_yaml_characters_survives(tmp_path):
    final = tmp_path / "a: #b 'c' \"d\" ğ"
    assert yaml.safe_load(store.data_yaml(final))["path"] == str(final)


def test_labels_are_valid_boxes(made):
    paths = sorted(made.parent.glob("labels/*/*.txt"))
    assert len(paths) == 9
    for path in paths:
        rows = labels_of(path)
        assert rows.shape[1] == 5
        assert 2 <= len(rows) <= 4
        digit, centre, extent = rows[:, 0], rows[:, 1:3], rows[:, 3:5]
        assert set(digit) <= set(range(10))
        assert (extent > 0).all()
        # Labels have six decimals.
        assert (centre - extent / 2 >= -1e-6).all()
        assert (centre + extent / 2 <= 1 + 1e-6).all()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_folder_is_readable_like_its_parent(tmp_path):
    tmp_path.chmod(0o755)
    assert (digits(TINY, root=tmp_path).parent.stat().st_mode & 0o777) == 0o755


def test_authors_of_the_photographs_are_named(made):
    text = (made.parent / "ATTRIBUTION.txt").read_text("utf-8")
    for word in ("danielbuechele", "vultilion", "Alpaydin", "licenses/by/2.0"):
        assert word in text


def test_same_seed_same_bytes_elsewhere(made, own):
    assert own.parent != made.parent
    assert manifest_of(own)["files"] == manifest_of(made)["files"]


def test_another_seed_gives_other_pictures(made, tmp_path):
    other = digits(DigitsConfig(train=6, val=3, size=64, seed=1), root=tmp_path)
    ours, theirs = manifest_of(made)["files"], manifest_of(other)["files"]
    same = {name for name in ours if ours[name] == theirs[name]}
    assert same == {"ATTRIBUTION.txt"}


def test_a_larger_set_starts_with_the_smaller_one(made, tmp_path):
    larger = manifest_of(digits(DigitsConfig(train=7, val=3, size=64), root=tmp_path))["files"]
    smaller = manifest_of(made)["files"]
    assert {name: larger[name] for name in smaller} == smaller


def test_second_call_changes_nothing(own):
    def times():
        return {path: path.stat().st_mtime_ns for path in own.parent.rglob("*")}

    before = times()
    assert digits(TINY, root=own.parent.parent) == own
    assert times() == before


def test_files_a_trainer_adds_do_not_matter(own):
    added = [own.parent / "labels/train.cache", own.parent / "images/train/00000.npy"]
    for path in added:
        path.write_bytes(b"added")
    digits(TINY, root=own.parent.parent)
    assert all(path.exists() for path in added)


def _truncate(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def _forget_an_image(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    del manifest["files"]["images/val/00002.png"]
    (folder / "images/val/00002.png").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


DAMAGE = {
    "truncated image": lambda folder: _truncate(folder, "images/train/00002.png"),
    "truncated label": lambda folder: _truncate(folder, "labels/val/00001.txt"),
    "truncated manifest": lambda folder: _truncate(folder, "manifest.json"),
    "truncated yaml": lambda folder: _truncate(folder, "data.yaml"),
    "missing image": lambda folder: (folder / "images/val/00000.png").unlink(),
    "missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "missing credits": lambda folder: (folder / "ATTRIBUTION.txt").unlink(),
    "foreign image": lambda folder: (folder / "images/val/x.png").write_bytes(b""),
    "shorter manifest": _forget_an_image,
    "empty manifest": lambda folder: (folder / "manifest.json").write_text('{"files": {}}'),
    "list as manifest": lambda folder: (folder / "manifest.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_made_again(own, made, damage):
    folder = own.parent
    DAMAGE[damage](folder)
    assert digits(TINY, root=folder.parent) == own
    assert manifest_of(own) == manifest_of(made)
    assert all(
        store.sha256(folder / name) == digest for name, digest in manifest_of(own)["files"].items()
    )
    assert own.read_text("utf-8") == store.data_yaml(folder)
    assert not (folder / "images/val/x.png").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_set_that_was_moved_is_made_again(own, tmp_path):
    moved = tmp_path / "moved" / own.parent.name
    moved.parent.mkdir()
    own.parent.rename(moved)
    data = digits(TINY, root=moved.parent)
    assert yaml.safe_load(data.read_text("utf-8"))["path"] == str(moved)


def test_an_older_version_is_not_reused(own):
    manifest = manifest_of(own)
    manifest["version"] = 0
    (own.parent / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert manifest_of(digits(TINY, root=own.parent.parent))["version"] == 1


def test_a_killed_process_leaves_no_set(tmp_path):
    with python(KILLED_AT_THE_FOURTH_PICTURE + MAKE_TINY, tmp_path) as process:
        assert process.wait(60) == 9
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".")
    assert len(list(leftover.rglob("*.png"))) == 3
    data = digits(TINY, root=tmp_path)
    assert len(list(data.parent.glob("images/*/*.png"))) == 9
    assert leftover.exists()  # it may belong to a living process


def test_old_leftovers_are_removed(tmp_path):
    leftover = tmp_path / ".digits-v1-train6-val3-size64-seed0.abc.tmp"
    leftover.mkdir()
    long_ago = time.time() - 48 * 3600
    os.utime(leftover, (long_ago, long_ago))
    digits(TINY, root=tmp_path)
    assert not leftover.exists()


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def failing(*_args):
        raise RuntimeError("no more pictures")

    monkeypatch.setattr("coordcbam.data.scene.render", failing)
    with pytest.raises(RuntimeError, match="no more pictures"):
        digits(TINY, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once(tmp_path, made):
    with python(MAKE_TINY, tmp_path) as one, python(MAKE_TINY, tmp_path) as other:
        outputs = [process.communicate(timeout=120)[0] for process in (one, other)]
        assert [one.returncode, other.returncode] == [0, 0]
    data = tmp_path / TINY.folder / "data.yaml"
    assert outputs == [f"{data}\n"] * 2
    assert manifest_of(data)["files"] == manifest_of(made)["files"]
    assert [path.name for path in tmp_path.iterdir()] == [TINY.folder]


def test_the_second_of_two_keeps_what_the_first_made(tmp_path, monkeypatch):
    from coordcbam.data import writing

    write, seen = writing.write_set, []

    def slow(folder, **options):
        write(folder, **options)
        if not seen:
            seen.append(1)
            seen.append(digits(TINY, root=tmp_path).stat().st_mtime_ns)

    monkeypatch.setattr(writing, "write_set", slow)
    data = digits(TINY, root=tmp_path)
    assert data.stat().st_mtime_ns == seen[1]
    assert [path.name for path in tmp_path.iterdir()] == [TINY.folder]


def test_environment_variable_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COORDCBAM_CACHE", str(tmp_path / "by-variable"))
    assert store.cache_root() == tmp_path / "by-variable"
    assert store.cache_root(tmp_path / "by-argument") == tmp_path / "by-argument"
    data = digits(TINY)
    assert data.parent.parent == tmp_path / "by-variable"


def test_the_users_cache_otherwise(monkeypatch):
    monkeypatch.setenv("COORDCBAM_CACHE", "")
    assert store.cache_root().name == "coordcbam"


def test_a_root_that_is_a_file(tmp_path):
    root = tmp_path / "file"
    root.write_text("")
    with pytest.raises(UsageError, match="COORDCBAM_CACHE") as caught:
        digits(TINY, root=root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("train", 0, "1 to 20000"),
        ("val", -1, "1 to 20000"),
        ("val", 20_001, "1 to 20000"),
        ("size", 31, "32 to 1024"),
        ("size", 128.0, "an integer"),
        ("seed", -1, "0 to 4294967295"),
        ("train", True, "an integer"),
        ("seed", "0", "an integer"),
        ("train", None, "an integer"),
    ],
)
def test_bad_options_name_field_value_and_rule(name, value, rule):
    with pytest.raises(UsageError) as caught:
        DigitsConfig(**{name: value})
    assert f"DigitsConfig.{name}={value!r}" in str(caught.value)
    assert rule in str(caught.value)


def test_options_are_keywords_and_frozen():
    with pytest.raises(TypeError):
        DigitsConfig(300)
    with pytest.raises(AttributeError):
        TINY.train = 7


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"coordcbam\[demo\]"):
        digits(TINY, root=tmp_path)


def test_the_room_is_light():
    heavy = ("numpy", "PIL", "sklearn", "platformdirs", "torch")
    code = f"import sys, coordcbam.data; print([m for m in {heavy} if m in sys.modules])"
    with python(code, Path()) as process:
        assert process.communicate(timeout=60)[0] == "[]\n"


def test_making_a_set_never_loads_torch(tmp_path):
    with python(MAKE_TINY + "\nassert 'torch' not in sys.modules", tmp_path) as process:
        assert process.wait(60) == 0
