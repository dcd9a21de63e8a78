"""Draw docs/img/demo.png, the README's picture, from a run of the demo.

python docs/make_picture.py runs/coordcbam/demo-step3
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coordcbam.records import Run, read_run

PICTURE = Path(__file__).parent / "img" / "demo.png"
COLOURS = ("#0072b2", "#009e73", "#cc79a7")
SCORES = {"mAP50": "#0072b2", "mAP50-95": "#e69f00"}


def draw(run: Run, out: Path) -> None:
    """The signal that each block kept beside the scores of the run."""
    figure = Figure(figsize=(10.8, 3.9), layout="constrained", dpi=100)
    left, right = figure.subplots(1, 2)
    _signal(run, left)
    _scores(run, right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eceff1")
    figure.savefig(out)


def _signal(run: Run, axes: Axes) -> None:
    for block, colour in zip(run.blocks(), COLOURS, strict=True):
        axes.plot(*run.series(block, "rho"), color=colour, label=block)
    r_min = run.info.certificate["r_min"]
    axes.axhline(r_min, color="#d55e00", linestyle=":", linewidth=1)
    axes.text(0, r_min + 0.01, f"{r_min:.2f}: the rescue would act", color="#d55e00", fontsize=9)
    axes.set(title="Signal kept by each block: <x, out> / <x, x>", xlabel="step", ylim=(0.7, 1.3))
    axes.legend(frameon=False, fontsize=9)


def _scores(run: Run, axes: Axes) -> None:
    epochs = [int(row["epoch"]) + 1 for row in run.metrics]
    for name, colour in SCORES.items():
        axes.plot(epochs, [row[name] for row in run.metrics], color=colour, marker="o", label=name)
    axes.set(title="Validation of the demo (seed 0)", xlabel="epoch", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=9, loc="upper left")


if __name__ == "__main__":
    draw(read_run(Path(sys.argv[1])), PICTURE)
