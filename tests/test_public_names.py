"""The public names: complete, reachable, at paths that never move, with examples that run."""

import ast
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import coordcbam as cc

SOURCE = Path(cc.__file__).parent
PUBLIC = [name for name in cc.__all__ if name != "__version__"]
# What the design promises. Names may come, none may go.
PROMISED = {
    "BlockConfig",
    "ChannelConfig",
    "CoordConfig",
    "MixConfig",
    "RescueConfig",
    "CoordCBAM",
    "GuardedResidual",
    "CBAMChannelPlusCoord",
    "ChannelAttentionFusionT",
    "CoordinateAttPlus",
    "Insertion",
    "Plan",
    "Monitor",
    "Stats",
    "Trace",
    "attached_block",
    "blocks",
    "bypass",
    "insert_",
    "plan",
    "remove_",
}
NOTEBOOK = {"CBAMChannelPlusCoord", "ChannelAttentionFusionT", "CoordinateAttPlus"}


def permanent_names():
    """Every class or function under an ``@permanent`` decorator, read from the source."""
    names = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names += [node.name for d in node.decorator_list if ast.unparse(d) == "permanent"]
    return sorted(names)


PERMANENT = permanent_names()


def type_checking_imports():
    """The names that type checkers see in ``coordcbam/__init__.py``, with their rooms."""
    for node in ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return {alias.name: item.module for item in node.body for alias in item.names}
    return {}


def test_promised_names_are_there():
    assert set(cc.__all__) >= PROMISED
    assert cc.__all__ == sorted(cc.__all__)
    assert set(dir(cc)) >= set(cc.__all__)


@pytest.mark.parametrize("name", cc.__all__)
def test_every_name_resolves(name):
    assert getattr(cc, name) is not None
    assert getattr(cc, name).__doc__


def test_three_lists_agree():
    assert type_checking_imports() == cc._ROOM_OF
    assert set(cc._ROOM_OF) == set(PUBLIC)
    for name, room in cc._ROOM_OF.items():
        assert getattr(cc, name) is getattr(importlib.import_module(room), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'coordcbam' has no attribute 'CoordCBAN'"):
        cc.CoordCBAN  # noqa: B018
    assert not hasattr(cc, "torch_")


@pytest.mark.parametrize("name", PERMANENT)
def test_permanent_things_are_reachable_where_they_pickle(name):
    thing = getattr(cc, name)
    assert (thing.__module__, thing.__qualname__) == ("coordcbam", name)


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - NOTEBOOK - set(PERMANENT)))
def test_public_things_that_are_not_permanent_are_never_pickled(name):
    """Functions and the Monitor; a class that a model or a file can hold must be permanent."""
    assert inspect.isfunction(getattr(cc, name)) or name == "Monitor"


def test_the_pickled_classes_are_permanent():
    assert set(PERMANENT) >= {
        "CoordCBAM",
        "GuardedResidual",
        "ChannelGate",
        "CoordGate",
        "BlockConfig",
        "attached_block",
    }


def documented():
    """Permanent things hide from ``--doctest-modules``: their ``__module__`` is another."""
    for name in PUBLIC:
        thing = getattr(cc, name)
        if thing.__module__ == "coordcbam":
            module = inspect.getmodule(inspect.unwrap(thing)) or cc
            yield from doctest.DocTestFinder(exclude_empty=True).find(
                thing, name, module=False, globs={**vars(home(name)), **vars(module)}
            )


def home(name):
    """The module whose source defines ``name``."""
    for info in pkgutil.walk_packages(cc.__path__, "coordcbam."):
        room = cc._ROOM_OF[name]
        if info.name.startswith(room + ".") and f"{name}" in vars(
            importlib.import_module(info.name)
        ):
            module = importlib.import_module(info.name)
            text = inspect.getsource(module)
            if f"class {name}(" in text or f"class {name}:" in text or f"def {name}(" in text:
                return module
    raise AssertionError(f"no source of {name}")


EXAMPLES = [test for test in documented() if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_examples_of_permanent_things_run(example):
    runner = doctest.DocTestRunner(verbose=False)
    text = []
    runner.run(example, out=text.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(text)


def test_the_main_classes_have_examples():
    with_examples = {test.name.partition(".")[0] for test in EXAMPLES}
    assert with_examples >= {"CoordCBAM", "BlockConfig", "ChannelConfig"}
