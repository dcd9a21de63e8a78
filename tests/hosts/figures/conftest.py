"""Figures of the hosts: what ``make hosts`` counts. The tests next door guard the same every day."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """``counted(section, told)``: this test is one case of a section, and what it measured."""

    def note(section: str, told: Any = "") -> None:
        record_property("counted", (section, str(told)))

    return note
