"""What watching costs, of given times; and that the block is watched as it says."""

import pytest

from coordcbam import kernels
from coordcbam.bench import Case, Contender, Length
from coordcbam.bench.watching import monitor, ratio, rows_of
from coordcbam.block import BlockConfig, CoordCBAM


def test_ratios_are_of_neighbours() -> None:
    assert ratio([2.0, 30.0, 40.0], [1.0, 10.0, 20.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_one_step_in_ten_is_read(case: Case) -> None:
    times = {"off": [1e-6] * 3, "between": [1.1e-6] * 3, "reading": [2e-6] * 3}
    rows = {row.mode: row for row in rows_of(case, "coordcbam step3", "cpu", times)}
    assert rows["monitor"].value == pytest.approx((2.0 + 9 * 1.1) / 10)
    assert rows["monitor reading"].value == pytest.approx(2.0)
    assert rows["monitor between"].value == pytest.approx(1.1)
    assert rows["monitor off"].value is None
    assert rows["monitor off"].times.p50 == pytest.approx(1.0)
    assert {row.kernel for row in rows.values()} == {"cpu"}


def test_ours_alone_are_watched(
    few: list[Contender], case: Case, short: Length, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, bool, bool]] = set()
    whole = CoordCBAM.forward

    def forward(self: CoordCBAM, x: object) -> object:
        seen.add((kernels.chosen(), self.monitor, self.detailed and self.monitor))
        return whole(self, x)

    monkeypatch.setattr(CoordCBAM, "forward", forward)
    rows = monitor(case, few, short)
    assert {row.contender for row in rows} == {"coordcbam step2", "notebook step2"}
    ways = {(False, False), (True, False), (True, True)}
    assert seen == {(kernel, *way) for kernel in ("algebra", "plain") for way in ways}


def test_a_watched_step_is_closed(case: Case, short: Length) -> None:
    block = CoordCBAM(8, BlockConfig.step3())
    one = Contender(name="a", build=lambda _: block, config=block.config, kernel=kernels.chosen())
    monitor(case, [one], short)
    assert block.updates == 2 * (short.least + short.warm_up)
