"""The oracle's operations, one by one."""

import pytest
import torch

from coordcbam.kernels import Gain, plain
from coordcbam.kernels.elementwise import soften


def test_uninitialised_memory_is_nan_here():
    """What a kernel forgets to write must not look like a number."""
    assert torch.empty(100).isnan().all()
    assert torch.empty_like(torch.ones(3)).isnan().all()
    assert torch.ones(3).new_empty(3).isnan().all()


def map_of(shape=(2, 3, 4, 5)):
    return torch.randn(shape, dtype=torch.float64)


def test_profile():
    x = map_of()
    profile = plain.profile(x)
    for h in range(4):
        assert torch.equal(profile.row_mean[:, :, h, 0], x[:, :, h].mean(-1))
        assert torch.equal(profile.row_max[:, :, h, 0], x[:, :, h].max(-1).values)
    for w in range(5):
        torch.testing.assert_close(profile.col_mean[:, :, 0, w], x[..., w].mean(-1))
        assert torch.equal(profile.col_max[:, :, 0, w], x[..., w].max(-1).values)
    assert [tuple(t.shape) for t in profile] == [(2, 3, 4, 1)] * 2 + [(2, 3, 1, 5)] * 2


def test_pool_is_the_profiles_mean_and_maximum():
    x = map_of()
    mean, peak = plain.pool(x)
    profile = plain.profile(x)
    torch.testing.assert_close(mean, profile.row_mean.mean(2, keepdim=True))
    assert torch.equal(peak, profile.row_max.amax(2, keepdim=True))
    assert torch.equal(peak, torch.nn.functional.adaptive_max_pool2d(x, 1))


def test_ties_give_their_gradient_as_the_notebooks_operations_do():
    """A channel's maximum: all to the first, as AdaptiveMaxPool2d; a row's: shared, as amax."""
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    plain.pool(x)[1].sum().backward()
    assert x.grad.flatten().tolist() == [1, 0, 0, 0]
    x.grad = None
    plain.profile(x).row_max.sum().backward()
    assert x.grad.flatten().tolist() == [0.5] * 4


def gain(**changed):
    fields = {
        "scaled": map_of(),
        "rows": torch.rand(2, 3, 4, 1, dtype=torch.float64),
        "cols": torch.rand(2, 3, 1, 5, dtype=torch.float64),
        "spatial": None,
        "beta": 0.35,
        "clamp": None,
    }
    return Gain(**{**fields, **changed})


@pytest.mark.parametrize("clamp", [None, (0.9, 1.1), (0.6, 1.6)])
@pytest.mark.parametrize("beta", [0.35, 0.0, 1.0, -3.0])
@pytest.mark.parametrize("spatial", [False, True])
def test_apply_gain_element_by_element(spatial, beta, clamp):
    g = gain(beta=beta, clamp=clamp, spatial=map_of() if spatial else None)
    out = plain.apply_gain(g)
    for b, c, h, w in [(0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 2, 1)]:
        scale = 1 + beta * (g.rows[b, c, h, 0] * g.cols[b, c, 0, w] - 1)
        if clamp:
            scale = min(max(scale, clamp[0]), clamp[1])
        want = g.scaled[b, c, h, w] * scale * (g.spatial[b, c, h, w] if spatial else 1)
        assert out[b, c, h, w].item() == pytest.approx(float(want), rel=1e-14)


def test_soften():
    gate = torch.rand(7)
    assert soften(gate, None) is gate
    assert torch.equal(soften(gate, 0.0), torch.ones(7))
    torch.testing.assert_close(soften(gate, 1.0), gate)
    assert soften(torch.tensor(0.0), 0.35).item() == pytest.approx(0.65)


def test_inputs_are_not_written_to():
    x = map_of()
    before = x.clone()
    plain.profile(x)
    plain.pool(x)
    plain.apply_gain(gain(scaled=x))
    assert torch.equal(x, before)
