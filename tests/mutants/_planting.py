"""The planted faults: reading the list, copying the source, planting one fault in the copy."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "src"
LISTS = HERE / "faults"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One mistake that a developer could make, and the tests that should notice."""

    id: str
    mechanism: str
    file: str  # below src/coordcbam
    old: str  # exactly once in the file
    new: str
    tests: tuple[str, ...]  # globs of files, or path::test; the likeliest to notice first

    def planted(self) -> str:
        """The file's text with the fault in it.

        Raises:
            ValueError: the place is not there any more, or no longer alone.
        """
        text = (SOURCE / "coordcbam" / self.file).read_text(encoding="utf-8")
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.id}: {self.file} has its text {found} times, expected once")
        return text.replace(self.old, self.new)

    def test_paths(self) -> tuple[str, ...]:
        """The tests as pytest takes them.

        Raises:
            ValueError: one that does not exist.
        """
        return tuple(path for pattern in self.tests for path in _expanded(pattern, self.id))


def faults() -> list[Fault]:
    """Every fault of the list, in its order."""
    return [
        Fault(
            id=entry["id"],
            mechanism=mechanism["name"],
            file=entry.get("file", mechanism["file"]),
            old=entry["old"],
            new=entry["new"],
            tests=tuple(entry.get("tests", mechanism["tests"])),
        )
        for path in sorted(LISTS.glob("*.toml"))
        for mechanism in tomllib.loads(path.read_text(encoding="utf-8"))["mechanism"]
        for entry in mechanism["faults"]
    ]


def copy_of(source: Path, folder: Path, fault: Fault | None) -> Path:
    """A copy of ``source`` in ``folder``, with the fault if there is one; returns ``folder``."""
    # Modification times go with it, so the copy's compiled files stay valid.
    shutil.copytree(source, folder)
    if fault is not None:
        path = folder / "coordcbam" / fault.file
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_text(fault.planted(), encoding="utf-8")
    return folder


def _expanded(pattern: str, owner: str) -> list[str]:
    file, _, test = pattern.partition("::")
    found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(file))
    if not found:
        raise ValueError(f"{owner}: no test file {file}")
    if not test:
        return found
    if not re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE):
        raise ValueError(f"{owner}: no test {pattern}")
    return [pattern]
