"""PyTorch export: what the file holds and answers, and what is refused.

The files are read back with `onnx` and run with `onnxruntime` here, apart from the exporter's own check.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
from torch import nn  # noqa: E402
from torch_nets import (  # noqa: E402
    TOLERANCE,
    Attention,
    Lambda,
    Residual,
    TwoInputs,
    mlp,
    one_dimensional,
    operators,
    relative,
    session,
    settle,
)

from onnxplain.engine.errors import ExportError, InputError, OptionError, OutputError  # noqa: E402
from onnxplain.exporters import export, writing  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


NETS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("residual", Residual, (3, 8, 8)),
    ("mlp", mlp, (7,)),
    ("attention", Attention, (3, 8, 8)),
    ("one_dimensional", one_dimensional, (2, 31)),
]


@pytest.mark.parametrize("fold", [False, True], ids=["kept", "fold"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("make", "shape"), [net[1:] for net in NETS], ids=[net[0] for net in NETS])
def test_file_answers_like_the_module_at_every_batch_size(
    make: Any, shape: tuple[int, ...], rows: int, fold: bool, tmp_path: Path
) -> None:
    net = settle(make())
    report = export(net, torch.randn(rows, *shape), tmp_path / "m.onnx", fold=fold)
    assert report.opset == 18
    assert report.ir_version == 10
    assert report.inputs[0].shape == ("batch", *shape)
    assert report.outputs[0].name == "output"
    assert report.outputs[0].shape[0] == "batch"
    assert rows in report.batch_sizes
    assert len(report.batch_sizes) == 2
    assert report.max_difference["output"] < TOLERANCE
    runtime = session(tmp_path / "m.onnx")
    for size in (1, 2, 3, 5):
        x = torch.randn(size, *shape)
        (answer,) = runtime.run(None, {report.inputs[0].name: x.numpy()})
        with torch.no_grad():
            assert relative(answer, net(x)) < TOLERANCE


def test_normalisations_and_biases_are_kept(tmp_path: Path) -> None:
    net = settle(Residual())
    report = export(net, torch.randn(1, 3, 8, 8), tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx")["BatchNormalization"] == 2
    assert report.operators["BatchNormalization"] == 2
    assert report.folded == ()
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(tmp_path / "m.onnx").graph.initializer}
    for name in ("bn1.bias", "bn2.bias", "bn1.running_mean", "conv2.bias", "head.bias", "conv1.weight"):
        np.testing.assert_array_equal(weights[name], net.state_dict()[name].numpy(), err_msg=name)


def test_fold_merges_the_normalisations_and_says_so(tmp_path: Path) -> None:
    report = export(settle(Residual()), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx", fold=True)
    assert operators(tmp_path / "m.onnx")["BatchNormalization"] == 0
    assert [str(fold) for fold in report.folded] == ["BatchNormalization: 2 -> 0"]


def test_equal_biases_are_not_merged(tmp_path: Path) -> None:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    for layer in net:
        nn.init.zeros_(layer.bias)
    export(net, torch.randn(2, 4), tmp_path / "m.onnx")
    names = {weight.name for weight in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert {"0.bias", "1.bias", "2.bias"} <= names


@pytest.mark.parametrize("opset", [19, 20, 22, 23, 24, 25])
def test_other_opsets_load_and_state_their_versions(opset: int, tmp_path: Path) -> None:
    report = export(Attention(), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", opset=opset)
    model = onnx.load(tmp_path / "m.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert report.opset == opset
    assert report.ir_version == model.ir_version
    # The ONNX release table: an opset needs at least the IR version that came with it.
    released = {opset_: ir for _, ir, opset_, *_ in reversed(onnx.helper.VERSION_TABLE)}
    assert model.ir_version >= released[opset]
    assert model.ir_version == 10 or opset > 22
    assert session(tmp_path / "m.onnx").get_inputs()[0].name == "image"


@pytest.mark.parametrize("opset", [17, 26])
def test_opsets_outside_the_range_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"opset {opset} .* 18 to 25"):
        export(mlp(), torch.randn(1, 7), tmp_path / "m.onnx", opset=opset)


def test_two_inputs_by_position_and_by_name(tmp_path: Path) -> None:
    net = TwoInputs()
    ids, mask = torch.randint(0, 20, (2, 6)), torch.rand(2, 6)
    by_position = export(net, (ids, mask), tmp_path / "a.onnx")
    assert [(t.name, t.dtype, t.shape) for t in by_position.inputs] == [
        ("ids", "int64", ("batch", 6)),
        ("mask", "float32", ("batch", 6)),
    ]
    assert [t.name for t in by_position.outputs] == ["logits", "pooled"]
    by_name = export(net, {"mask": mask.numpy(), "ids": ids.numpy()}, tmp_path / "b.onnx")  # not the signature's order
    assert by_name.inputs == by_position.inputs
    named = export(
        net, (ids, mask), tmp_path / "c.onnx", input_names=["tokens", "weights"], output_names=["scores", "hidden"]
    )
    x = torch.randint(0, 20, (3, 6)), torch.rand(3, 6)
    logits, pooled = session(named.path).run(["scores", "hidden"], {"tokens": x[0].numpy(), "weights": x[1].numpy()})
    expected = net(*x)
    assert relative(logits, expected["logits"]) < TOLERANCE
    assert relative(pooled, expected["pooled"]) < TOLERANCE


def test_an_input_without_batch_keeps_its_shape(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return x * scale

    report = export(Scaled(), (torch.randn(2, 5), torch.randn(5)), tmp_path / "m.onnx")
    assert [t.shape for t in report.inputs] == [("batch", 5), (5,)]


def test_fixed_batch(tmp_path: Path) -> None:
    report = export(mlp(), torch.randn(2, 7), tmp_path / "m.onnx", dynamic_batch=False)
    assert report.inputs[0].shape == (2, 7)
    assert report.batch_sizes == (2,)


def test_open_axes_by_the_users_names(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU())
    report = export(net, torch.randn(2, 2, 9), tmp_path / "m.onnx", dynamic_shapes=({0: "n", 2: "time"},))
    assert report.inputs[0].shape == ("n", 2, "time")
    x = torch.randn(4, 2, 17)
    (answer,) = session(report.path).run(None, {"input": x.numpy()})
    assert relative(answer, net(x)) < TOLERANCE


# --- what is in the file --------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize("fold", [False, True], ids=["kept", "fold"])
def test_no_path_of_the_user_is_in_the_file(fold: bool, tmp_path: Path) -> None:
    report = export(settle(Residual()), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx", fold=fold)
    content = _bytes(report.path)
    here = Path(__file__)
    for private in (str(here.parent), here.name, "stack_trace", "site-packages", str(tmp_path), "File "):
        assert private.encode() not in content, private
    model = onnx.load(report.path)
    assert model.doc_string == model.graph.doc_string == ""
    keys = {entry.key for node in model.graph.node for entry in node.metadata_props}
    assert keys == {"pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"}


def test_nodes_carry_the_names_of_their_layers(tmp_path: Path) -> None:
    report = export(settle(Residual()), torch.randn(1, 3, 8, 8), tmp_path / "m.onnx")
    scopes = {
        entry.value
        for node in onnx.load(report.path).graph.node
        if node.op_type == "BatchNormalization"
        for entry in node.metadata_props
        if entry.key == "pkg.torch.onnx.name_scopes"
    }
    assert {"bn1", "bn2"} == {name for scope in scopes for name in ("bn1", "bn2") if f"'{name}'" in scope}


def test_the_same_export_gives_the_same_bytes(tmp_path: Path) -> None:
    net, sample = settle(Residual()), torch.randn(1, 3, 8, 8)
    first, second = (export(net, sample, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert first.sha256 == second.sha256


def test_external_data(tmp_path: Path) -> None:
    net = nn.Linear(40, 30)
    report = export(net, torch.randn(1, 40), tmp_path / "m.onnx", external_data=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"] == sorted(report.files)
    assert (tmp_path / "m.onnx.data").stat().st_size >= 40 * 30 * 4
    x = torch.randn(2, 40)
    (answer,) = session(report.path).run(None, {"input": x.numpy()})
    assert relative(answer, net(x)) < TOLERANCE
    assert list(export(net, x, tmp_path / "n.onnx").files) == ["n.onnx"]


def test_output_names(tmp_path: Path) -> None:
    several = export(Lambda(lambda y: (y, [y.relu(), None])), torch.randn(1, 4), tmp_path / "m.onnx")
    assert [t.name for t in several.outputs] == ["output_0", "output_1"]
    swapped = export(mlp(), torch.randn(1, 7), tmp_path / "m.onnx", input_names=["output"], output_names=["input"])
    assert (swapped.inputs[0].name, swapped.outputs[0].name) == ("output", "input")
    same = export(Lambda(lambda y: (y, y)), torch.randn(1, 4), tmp_path / "m.onnx")
    assert [t.name for t in same.outputs] == ["output_0", "output_1"]


def test_the_exporter_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        export(mlp(), torch.randn(1, 7), tmp_path / "m.onnx")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert seen == []


# --- refusals -------------------------------------------------------------------------------------


def test_disagreement_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writing.write

    def spoil(model: Any, path: Path, external_data: bool | None) -> dict[str, str]:
        for value in model.graph.initializers.values():
            if value.name == "linear.bias":
                value.const_value = ir.tensor(value.const_value.numpy() + np.float32(0.01), name=value.name)
        return write(model, path, external_data)

    monkeypatch.setattr(writing, "write", spoil)
    with pytest.raises(ExportError, match="differs from the framework's by"):
        export(Lambda(lambda y: y), torch.randn(2, 4), tmp_path / "m.onnx", external_data=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y: y + torch.rand_like(y), "differs from the framework's"),
        (lambda y: y if y.sum() > 0 else -y, "PyTorch cannot export the model"),
        (lambda y: (y, 3.0), "the model returns float"),
        (lambda y: y * float("nan"), "NaN or infinite throughout"),
        (lambda y: y.reshape(5, 5), "the model itself fails"),
        (lambda y: y + torch.arange(8.0).reshape(2, 4), "PyTorch cannot export .* set dynamic_batch=False"),
    ],
    ids=["random", "branch", "float", "nan", "fails", "one_batch_size"],
)
def test_models_that_cannot_be_exported(function: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(ExportError, match=message):
        export(Lambda(function), torch.randn(2, 4), tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the call itself
        scripted = torch.jit.script(nn.Linear(4, 4))
    with pytest.raises(ExportError, match=r"TorchScript module \(Linear\)"):
        export(scripted, torch.randn(1, 4), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("picture.png", "a value of type str"),
        ((), "the sample is empty"),
        ((torch.zeros(1, 4), torch.zeros(1, 4)), r"does not fit Lambda\.forward"),
        ({"y": torch.zeros(1, 4)}, r"does not fit Lambda\.forward"),
    ],
    ids=["text", "empty", "too_many", "wrong_name"],
)
def test_samples_that_do_not_fit(sample: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(Lambda(lambda y: y), sample, tmp_path / "m.onnx")


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    x = torch.randn(1, 7)
    for names in ({"input_names": ["a", "b"]}, {"output_names": ["a", "b"]}, {"output_names": ["input"]}):
        with pytest.raises(OptionError, match="name"):
            export(mlp(), x, tmp_path / "m.onnx", **names)


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="make it first"):
        export(mlp(), torch.randn(1, 7), tmp_path / "no" / "m.onnx")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        export(mlp(), torch.randn(1, 7), tmp_path / "file" / "m.onnx")
