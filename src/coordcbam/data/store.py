"""Where a set lies on disk, what proves that it is whole, and how it gets there in one step."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from coordcbam._support.errors import UsageError

CACHE_VARIABLE = "COORDCBAM_CACHE"
MANIFEST = "manifest.json"
ATTRIBUTION = "ATTRIBUTION.txt"
_LEFTOVER_AGE_S = 24 * 3600.0


def cache_root(root: Path | None = None) -> Path:
    """The absolute folder for sets: ``root``, else ``COORDCBAM_CACHE``, else the user's cache.

    >>> cache_root(Path("somewhere")) == Path.cwd() / "somewhere"
    True
    """
    if root is None:
        named = os.environ.get(CACHE_VARIABLE)
        if named:
            root = Path(named)
        else:
            import platformdirs

            root = Path(platformdirs.user_cache_dir("coordcbam"))
    return Path(root).expanduser().resolve()


def stem(index: int) -> str:
    """The file name, without suffix, of an image and of its labels.

    >>> stem(7)
    '00007'
    """
    return f"{index:05d}"


def content_of(splits: Mapping[str, int]) -> Iterator[str]:
    """The relative path of every file whose bytes depend only on the set's options.

    >>> list(content_of({"val": 1}))
    ['ATTRIBUTION.txt', 'images/val/00000.png', 'labels/val/00000.txt']
    """
    yield ATTRIBUTION
    for split, count in splits.items():
        for index in range(count):
            yield f"images/{split}/{stem(index)}.png"
            yield f"labels/{split}/{stem(index)}.txt"


def data_yaml(final: Path) -> str:
    """The text of ``data.yaml`` for a set that will lie in ``final``."""
    # A JSON string is a YAML string, whatever the path contains.
    names = "".join(f'  {digit}: "{digit}"\n' for digit in range(10))
    where = json.dumps(str(final), ensure_ascii=False)
    return f"path: {where}\ntrain: images/train\nval: images/val\nnames:\n{names}"


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(
    folder: Path, *, final: Path, identity: Mapping[str, Any], splits: Mapping[str, int]
) -> bool:
    """Whether ``folder`` holds the whole set ``identity``, byte for byte as it was written.

    Files that a trainer adds (label caches, ``.npy`` copies) don't matter; pictures do, because
    they would be trained on.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = manifest["files"]
        pictures = {path.relative_to(folder).as_posix() for path in folder.glob("images/*/*.png")}
        return (
            all(manifest[key] == value for key, value in identity.items())
            and set(files) == set(content_of(splits))
            and pictures == {name for name in files if name.endswith(".png")}
            and (folder / "data.yaml").read_text("utf-8") == data_yaml(final)
            and all(sha256(folder / name) == digest for name, digest in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def install(final: Path, *, fill: Callable[[Path], None], is_good: Callable[[Path], bool]) -> None:
    """Fill a hidden neighbour of ``final`` and rename it into place.

    A process that is killed leaves only the neighbour, which nobody takes for a set; of two that
    race, the second keeps what the first has put there.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".tmp"))
    except OSError as error:
        raise UsageError(
            f"cache folder {str(final.parent)!r}: expected a folder that can be written "
            f"({error.strerror}); give root=... or set {CACHE_VARIABLE}"
        ) from error
    try:
        fill(made)
        _swap_in(made, final, is_good)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _sweep(final.parent)


def _swap_in(made: Path, final: Path, is_good: Callable[[Path], bool]) -> None:
    # mkdtemp makes the folder private; give it the mode of its parent, as an ordinary one has.
    made.chmod(final.parent.stat().st_mode & 0o777)
    for _ in range(10):
        if is_good(final):
            return
        with contextlib.suppress(FileNotFoundError):
            _discard(final)
        # It fails when another process has been faster; then look at what that one has made.
        with contextlib.suppress(OSError):
            made.rename(final)
            return
    made.rename(final)


def _discard(final: Path) -> None:
    aside = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".tmp"))
    try:
        final.rename(aside / "old")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what killed processes have left, once no living one can still be writing it."""
    for path in root.glob(".digits-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S:
                shutil.rmtree(path, ignore_errors=True)
