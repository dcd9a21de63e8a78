import math

import pytest

from coordcbam.records import Event, Place, RunInfo, RunWriter

FIELDS = ["r_block", "r_out_pre", "r_ema", "alpha", "alpha_eff", "ca_mean", "ca_min", "ca_max"]


@pytest.fixture
def make_run(tmp_path):
    """Writes a run with one reading per (block, step): ``ratio(block, step)`` and the rescue's."""

    def make(
        blocks=("model.16", "model.19"),
        steps=range(6),
        ratio=lambda _block, _step: 0.75,
        alpha_eff=lambda _block, _step: 0.5,
        epochs=3,
        fields=FIELDS,
        **info,
    ):
        folder = tmp_path / "train7" / "coordcbam"
        given = {
            "host": "torch",
            "places": tuple(Place(path=b, channels=64, parameters=1500) for b in blocks),
            "config": {"preset": "step2", "rescue": {"r_min": 0.45}},
            "versions": {"torch": "2.9"},
            "started": "2026-01-02T03:04:05+00:00",
            **info,
        }
        with RunWriter(folder, RunInfo(**given), fields) as writer:
            for step in steps:
                row = {
                    "r_out_pre": lambda b, s=step: ratio(b, s),
                    "alpha": lambda _: 0.5,
                    "alpha_eff": lambda b, s=step: alpha_eff(b, s),
                }
                writer.rows(
                    step,
                    step // 2,
                    step / 4,
                    {b: [row.get(f, lambda _: 0.6)(b) for f in fields] for b in blocks},
                )
            for epoch in range(epochs):
                writer.metrics(
                    epoch,
                    {
                        "train/box_loss": 2 - epoch / 9,
                        "val/box_loss": 2.1,
                        "metrics/mAP50(B)": epoch / 10,
                        "metrics/mAP50-95(B)": epoch / 20 if epoch else math.nan,
                    },
                )
            writer.event(Event(step=2, epoch=1, block="model.16", kind="rescue", message="began"))
        return folder

    return make
