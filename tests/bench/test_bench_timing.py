"""Turns, rounds and percentiles; never how long anything takes."""

import gc

import pytest
import torch

from coordcbam.bench import Length, keep_memory, threads
from coordcbam.bench.timing import Call, clock_for, interleaved, spread_of


def test_calls_take_turns_in_orders_of_their_own() -> None:
    log: list[str] = []
    calls = {name: Call(lambda name=name: log.append(name)) for name in "abcd"}
    length = Length(seconds=9.0, least=2, most=6, warm_up=2)
    times = interleaved(calls, length, clock_for(torch.device("cpu")))
    rounds = ["".join(log[i : i + 4]) for i in range(0, len(log), 4)]
    assert {"".join(sorted(each)) for each in rounds} == {"abcd"}
    assert len(rounds) == 2 + 6
    assert len(set(rounds[2:])) > 1
    assert {len(each) for each in times.values()} == {6}


def test_a_round_is_one_index_in_every_list() -> None:
    ticks = iter(range(100))
    calls = {"a": Call(lambda: None), "b": Call(lambda: None)}
    length = Length(seconds=9.0, least=1, most=5, warm_up=0)
    times = interleaved(calls, length, lambda _: float(next(ticks)))
    pairs = zip(times["a"], times["b"], strict=True)
    assert [sorted(pair) for pair in pairs] == [[2 * i, 2 * i + 1] for i in range(5)]


def test_the_time_is_up_after_the_least_rounds() -> None:
    length = Length(seconds=0.0, least=4, most=100, warm_up=1)
    times = interleaved({"a": Call(lambda: None)}, length, lambda _: 1.0)
    assert times == {"a": [1.0] * 4}


def test_what_prepares_comes_before_each_run() -> None:
    log: list[str] = []
    call = Call(lambda: log.append("run"), lambda: log.append("prepare"))
    length = Length(seconds=0.0, least=2, most=2, warm_up=1)
    interleaved({"a": call}, length, clock_for(torch.device("cpu")))
    assert log == ["prepare", "run"] * 3


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_waits(on: bool) -> None:
    seen: list[bool] = []
    (gc.enable if on else gc.disable)()
    try:
        call = Call(lambda: seen.append(gc.isenabled()))
        interleaved({"a": call}, Length(seconds=0.0, least=2, most=2), lambda c: c.run() or 1.0)
        assert set(seen) == {False}
        assert gc.isenabled() == on
    finally:
        gc.enable()


def test_a_gpu_is_waited_for_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def elapsed_time(self, _: "Event") -> float:
            log.append("read")
            return 5.0  # milliseconds

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: log.append("wait"))
    clock = clock_for(torch.device("cuda"))
    assert clock(Call(lambda: log.append("run"), lambda: log.append("prepare"))) == 0.005
    assert log == ["prepare", "wait", "record", "run", "record", "wait", "read"]


def test_percentiles_of_given_times() -> None:
    assert spread_of([float(i) for i in range(11)]) == (2.0, 5.0, 8.0)
    assert spread_of([3.0]) == (3.0, 3.0, 3.0)
    assert spread_of([1.0, 2.0]) == pytest.approx((1.2, 1.5, 1.8))


def test_threads_come_back() -> None:
    torch.set_num_threads(1)
    with pytest.raises(KeyError), threads(2):
        assert torch.get_num_threads() == 2
        raise KeyError
    assert torch.get_num_threads() == 1


class _Libc:
    """A C library that notes what it is asked."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def mallopt(self, option: int, value: int) -> int:
        assert value > 2**30
        self.asked.append(option)
        return self.answer


@pytest.mark.parametrize("answer", [1, 0])
def test_memory_is_kept_where_the_library_can(answer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library = _Libc(answer)
    monkeypatch.setattr("coordcbam.bench.timing.ctypes.CDLL", lambda _: library)
    assert keep_memory() == bool(answer)
    assert sorted(library.asked) == [-3, -1]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordcbam.bench.timing.ctypes.CDLL", lambda _: object())
    assert keep_memory() is False
