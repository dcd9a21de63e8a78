"""The inference form: the same numbers, few operations, nothing of the model changed."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from _support.shaken import shaken
from coordcbam import BlockConfig, CoordCBAM, DeployedCBAM, commit_, deploy, insert_
from coordcbam.block import OptionTypeError
from coordcbam.kernels import chosen, use

NODES_OF_THE_NOTEBOOK = 85
NOTEBOOK = BlockConfig.from_notebook
CONFIGS = {
    "step1": BlockConfig.step1(),
    "step2": BlockConfig.step2(),
    "step3": BlockConfig.step3(),
    "log": BlockConfig.step3().replace(ca_space="log", coord_space="log"),
    "sum": NOTEBOOK(ca_fusion="sum", ca_act="silu", ca_gate="hardsigmoid"),
    "silu, batch norm": NOTEBOOK(ca_act="silu", coord_act="relu", coord_norm="bn"),
    "no norm, closed": NOTEBOOK(coord_norm="none", beta_ca=1.0, coord_beta=1.0),
    "calibrated": BlockConfig.step2().replace(init="calibrated"),
    "clamp that binds": NOTEBOOK(coord_scale_min=0.9, coord_scale_max=0.95),
    "no residual": NOTEBOOK(residual=False, coord_dilation=1),
}


def block_of(config, channels=24):
    return shaken(CoordCBAM(channels, config)).eval()


@pytest.mark.parametrize("channels", [8, 160])  # of one and of several channels a group
@pytest.mark.parametrize("config", CONFIGS)
def test_the_same_numbers(config, channels):
    block = block_of(CONFIGS[config], channels)
    form, x = deploy(block), torch.randn(2, channels, 9, 7)
    assert type(form) is DeployedCBAM
    torch.testing.assert_close(form(x), block(x), atol=1e-5, rtol=0.0)
    assert not list(form.parameters())
    assert not form.training


def test_a_rescue_that_acts_is_baked():
    block = block_of(BlockConfig.step3().replace(r_min=0.99))
    block.r_ema.fill_(0.5)
    x = torch.randn(2, 24, 9, 7)
    assert block.alpha_eff() < 0.1 * block.alpha(x)
    torch.testing.assert_close(deploy(block)(x), block(x), atol=1e-5, rtol=0.0)


def test_a_model_is_copied_and_only_its_blocks_change():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), block_of(BlockConfig.step3(), 8), nn.ReLU()).train()
    before = copy.deepcopy(model.state_dict())
    form = deploy(model)
    assert [type(layer) for layer in form] == [nn.Conv2d, DeployedCBAM, nn.ReLU]
    assert type(model[1]) is CoordCBAM
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(form(x), model.eval()(x), atol=1e-5, rtol=0.0)


def test_a_block_that_was_inserted():
    """Its layer's hook calls whatever stands in the block's place."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9, 9)
    insert_(model, "0", config=BlockConfig.step2(), inputs=x)
    form = deploy(model)
    assert type(form[0].ccattn) is DeployedCBAM
    torch.testing.assert_close(form(x), model.eval()(x), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("options", [{"coord_use_spatial_gate": True}, {"beta_ca": 1.5}])
def test_what_cannot_be_baked_stays(options):
    block = block_of(NOTEBOOK(**options))
    form, x = deploy(block), torch.randn(2, 24, 6, 5)
    assert type(form) is CoordCBAM
    assert form is not block
    torch.testing.assert_close(form(x), block(x))


def test_only_modules_are_deployed():
    with pytest.raises(OptionTypeError, match=r"expected an nn\.Module"):
        deploy("best.pt")


def nodes_and_run(module, x, *, dynamo):
    """How many operations an export has, and what ONNX Runtime makes of it."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript")
            proto = torch.onnx.export(module, (x,), dynamo=True, verbose=False).model_proto
        else:
            file = io.BytesIO()
            torch.onnx.export(module, (x,), file, dynamo=False, opset_version=17)
            proto = onnx.load_from_string(file.getvalue())
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    operations = [n for n in proto.graph.node if n.op_type not in ("Constant", "Identity")]
    return len(operations), np.asarray(out)


@pytest.mark.parametrize("dynamo", [True, False])
def test_an_export_has_half_of_the_notebooks_operations(dynamo):
    block, x = block_of(BlockConfig.step2(), 64), torch.randn(1, 64, 20, 20)
    count, out = nodes_and_run(deploy(block), x, dynamo=dynamo)
    # The older exporter writes a split as two slices.
    assert count <= NODES_OF_THE_NOTEBOOK / 2 + (not dynamo)
    np.testing.assert_allclose(out, block(x).detach().numpy(), atol=1e-5)


def test_the_block_itself_exports_by_both_exporters():
    before = chosen()
    block, x = block_of(BlockConfig.step3(), 16), torch.randn(1, 16, 9, 7)
    want = block(x).detach().numpy()
    for dynamo in (True, False):
        np.testing.assert_allclose(nodes_and_run(block, x, dynamo=dynamo)[1], want, atol=1e-5)
    use(before)


def test_deploying_leaves_the_average_alone():
    block = shaken(CoordCBAM(8, BlockConfig.step3())).train()
    block.monitor = True
    block(torch.randn(2, 8, 6, 5, requires_grad=True))
    tally = block.tally.clone()
    deploy(block)
    assert torch.equal(block.tally, tally)
    commit_(block)
    assert block.updates == 1
