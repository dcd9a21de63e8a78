"""A Python environment in front of this one, with a few packages more or of other versions."""

import site
import subprocess
import sys
from pathlib import Path


class InstallError(Exception):
    """The installer could not; its own last words."""


def overlay(folder: Path, packages: tuple[str, ...]) -> str:
    """The interpreter of an environment in ``folder`` that sees all of this one's packages.

    Raises:
        InstallError: a package could not be installed.
    """
    if not packages:
        return sys.executable
    python, done = folder / "bin" / "python", folder / ".installed"
    if done.exists() and done.read_text() == "\n".join(packages):
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (own,) = folder.glob("lib/python*/site-packages")
    base = site.getsitepackages()[0]
    (own / "_base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
    words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run = subprocess.run([*words, *packages], capture_output=True, text=True)  # noqa: PLW1510
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        raise InstallError((errors or run.stderr.splitlines() or ["no word of pip"])[-1])
    done.write_text("\n".join(packages))
    return str(python)
