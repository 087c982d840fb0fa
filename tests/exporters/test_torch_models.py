"""The two kinds of PyTorch model: modes left and restored, programs of every batch, types kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch import nn  # noqa: E402
from torch_nets import TOLERANCE, Lambda, Residual, mlp, relative, session, settle  # noqa: E402

from onnxplain.engine.errors import ExportError, InputError  # noqa: E402
from onnxplain.exporters import export, verify  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


# --- modes ----------------------------------------------------------------------------------------


def test_modes_come_back_module_by_module(tmp_path: Path) -> None:
    net = Residual().train()
    net.bn2.eval()  # a frozen layer inside a module in training
    before = {name: module.training for name, module in net.named_modules()}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    export(net, torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    assert {name: module.training for name, module in net.named_modules()} == before
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name  # running statistics have not moved
    x = torch.randn(3, 3, 8, 8)
    (answer,) = session(tmp_path / "m.onnx").run(None, {"image": x.numpy()})
    assert relative(answer, net.eval()(x)) < TOLERANCE


def test_modes_come_back_after_a_failure(tmp_path: Path) -> None:
    net = Lambda(lambda y: y + torch.rand_like(y)).train()
    with pytest.raises(ExportError):
        export(net, torch.randn(2, 4), tmp_path / "m.onnx")
    assert net.training
    assert net.linear.training


# --- exported programs ----------------------------------------------------------------------------


def _program(module: nn.Module, x: torch.Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        return torch.export.export(module, (x,), **options)


def test_exported_program(tmp_path: Path) -> None:
    net = settle(Residual())
    program = _program(net, torch.randn(2, 3, 8, 8), dynamic_shapes=({0: torch.export.Dim("anything")},))
    report = export(program, {"image": torch.randn(2, 3, 8, 8)}, tmp_path / "m.onnx")
    assert report.inputs[0].shape == ("batch", 3, 8, 8)
    assert report.operators["BatchNormalization"] == 2
    for size in (1, 3):
        x = torch.randn(size, 3, 8, 8)
        (answer,) = session(report.path).run(None, {"image": x.numpy()})
        assert relative(answer, net(x)) < TOLERANCE


def test_exported_program_with_a_bounded_batch_is_compared_within_the_bound(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=4, max=8)
    program = _program(mlp(), torch.randn(5, 7), dynamic_shapes=({0: batch},))
    assert export(program, torch.randn(5, 7), tmp_path / "m.onnx").batch_sizes == (5, 4)


def test_exported_program_of_fixed_batch(tmp_path: Path) -> None:
    program = _program(mlp().eval(), torch.randn(2, 7))
    with pytest.raises(ExportError, match="dynamic_batch=False"):
        export(program, torch.randn(2, 7), tmp_path / "m.onnx")
    report = export(program, torch.randn(2, 7), tmp_path / "m.onnx", dynamic_batch=False)
    assert report.inputs[0].shape == (2, 7)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Sequential(nn.Linear(4, 4), nn.AlphaDropout(0.1))],
    ids=["batch_norm", "dropout", "alpha_dropout"],
)
def test_exported_program_in_training_mode_is_refused(layer: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"training mode: .* call \.eval\(\)"):
        export(_program(layer.train(), torch.randn(3, 4)), torch.randn(3, 4), tmp_path / "m.onnx")
    # The same layer in evaluation mode is taken.
    report = export(
        _program(layer.eval(), torch.randn(3, 4)), torch.randn(3, 4), tmp_path / "m.onnx", dynamic_batch=False
    )
    assert report.path.exists()


def test_exported_program_refuses_a_sample_that_does_not_fit(tmp_path: Path) -> None:
    program = _program(mlp(), torch.randn(2, 7))
    with pytest.raises(InputError, match=r"takes \['input'\]"):
        export(program, {"x": torch.randn(2, 7)}, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="takes 1"):
        export(program, (torch.randn(2, 7), torch.randn(2, 7)), tmp_path / "m.onnx")


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "opset"), [("float16", 18), ("float64", 18), ("bfloat16", 22)])
def test_types_are_kept(name: str, opset: int, tmp_path: Path) -> None:
    net = settle(Residual()).to(getattr(torch, name))
    sample = torch.randn(2, 3, 8, 8).to(getattr(torch, name))
    report = export(net, sample, tmp_path / "m.onnx", opset=opset)
    assert [t.dtype for t in (*report.inputs, *report.outputs)] == [name, name]
    assert report.tolerance == {"output": verify.TOLERANCES[name]}
    elements = {weight.data_type for weight in onnx.load(report.path).graph.initializer if ".weight" in weight.name}
    assert elements == {onnx.TensorProto.DataType.Value(name.upper().replace("FLOAT64", "DOUBLE"))}
    # onnxruntime's CPU build has no float64 or bfloat16 convolution: the report says who compared.
    assert report.runtime.startswith("onnxruntime" if name == "float16" else "onnx.reference")
    assert bool(report.notes) == (name != "float16")


def test_bfloat16_convolution_before_opset_22_is_refused(tmp_path: Path) -> None:
    net = nn.Conv1d(2, 3, 3).to(torch.bfloat16)
    with pytest.raises(ExportError, match="bfloat16 convolution needs 22"):
        export(net, torch.randn(1, 2, 9).to(torch.bfloat16), tmp_path / "m.onnx")
