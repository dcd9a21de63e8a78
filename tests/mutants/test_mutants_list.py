"""The list of planted faults is fit to be run: a stale fault would be a mechanism without a test."""

import collections

from _planting import LISTS, faults

FAULTS = faults()


def test_ids_are_unique():
    counts = collections.Counter(fault.id for fault in FAULTS)
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_fault_is_planted_twice():
    counts = collections.Counter((fault.file, fault.old, fault.new) for fault in FAULTS)
    assert [fault for fault, count in counts.items() if count > 1] == []


def test_there_are_enough_of_them():
    per_mechanism = collections.Counter(fault.mechanism for fault in FAULTS)
    assert len(FAULTS) >= 40
    assert {name: count for name, count in per_mechanism.items() if count < 3} == {}
    assert len(per_mechanism) >= 10


def test_each_is_planted_in_one_place_and_compiles_to_another_program():
    for fault in FAULTS:
        text = fault.planted()  # raises where its place is gone or not alone
        compile(text, fault.file, "exec")
        assert fault.old != fault.new, fault.id


def test_each_names_tests_that_exist():
    for fault in FAULTS:
        assert fault.test_paths(), fault.id


def test_every_list_is_read():
    assert {path.suffix for path in LISTS.iterdir()} == {".toml"}
