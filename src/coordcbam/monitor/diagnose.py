"""From readings to events: a block begins or ceases to suppress, to be rescued, to be finite."""

import math
from collections.abc import Iterator, Mapping

from coordcbam.records import SUPPRESSING, Event, read_row, signal_kept


class Diagnosis:
    """Remembers each block's last verdict and tells what changed.

    Args:
        skipped: how many steps each block has skipped so far, for a run that is resumed.

    >>> watch = Diagnosis()
    >>> healthy = {"r_out_pre": 0.75, "alpha": 0.75, "alpha_eff": 0.75}
    >>> list(watch.changes(0, 0, {"b": healthy}))
    []
    >>> [e.kind for e in watch.changes(1, 0, {"b": healthy | {"r_out_pre": 0.3}})]
    ['suppressing']
    """

    def __init__(self, skipped: Mapping[str, float] | None = None) -> None:
        self._last: dict[str, dict[str, bool]] = {}
        self._skipped = dict(skipped or {})

    def changes(
        self, step: int, epoch: int, readings: Mapping[str, Mapping[str, float]]
    ) -> Iterator[Event]:
        """An event for every state that a block entered or left since the last call."""
        for block, values in readings.items():
            states = _states(values)
            name, kept = signal_kept(values)
            before = self._last.get(block, dict.fromkeys(states, False))
            for kind, on in states.items():
                if on != before[kind]:
                    text = _TEXTS[kind][0 if on else 1].format(name=name, kept=kept, **values)
                    word = kind if on else f"{kind}_ended"
                    yield Event(step=step, epoch=epoch, block=block, kind=word, message=text)
            self._last[block] = states
            new = values.get("skipped", math.nan) - self._skipped.get(block, 0.0)
            if new > 0:  # also where no reading fell on the batch itself
                self._skipped[block] = values["skipped"]
                yield Event(
                    step=step,
                    epoch=epoch,
                    block=block,
                    kind="skipped",
                    message=f"batches of {new:g} steps told nothing (not finite, or no signal): "
                    "they left r_ema alone",
                )


_TEXTS = {
    "suppressing": (
        f"{{name}} {{kept:.3f}} is under {SUPPRESSING}: the block may be suppressing",
        f"{{name}} {{kept:.3f}} is back at {SUPPRESSING} or above",
    ),
    "rescue": (
        "the rescue acts: alpha_eff {alpha_eff:.3f} is under alpha {alpha:.3f}",
        "the rescue ended: alpha_eff is alpha {alpha:.3f}",
    ),
    "non_finite": (
        "{name} is not finite: this batch left r_ema as it was",
        "{name} is finite again",
    ),
}


def _states(values: Mapping[str, float]) -> dict[str, bool]:
    text = read_row(values).text
    measured = not math.isnan(values["alpha"])
    return {
        "suppressing": "suppressing" in text,
        "rescue": "rescue active" in text,
        "non_finite": measured and not math.isfinite(signal_kept(values)[1]),
    }
