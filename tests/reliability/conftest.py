"""Figures of the reliability table: a test measures one and names the bar it holds itself to."""

from collections.abc import Callable

import pytest


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``figure(name, measured, bar)``: one line of ``make reliability``; the test asserts it."""

    def record(name: str, measured: object, bar: str = "") -> None:
        record_property("figure", (name, str(measured), bar))

    return record
