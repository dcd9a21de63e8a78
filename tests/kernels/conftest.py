"""Whatever a test of this room chooses, the next one finds what was chosen before."""

import pytest

from coordcbam.kernels import chosen, use


@pytest.fixture(autouse=True)
def _kernel_as_before():
    before = chosen()
    yield
    use(before)
