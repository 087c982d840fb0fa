"""JAX and Flax: what the file answers, what it calls things, that it can be explained, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import call, refused

jax = pytest.importorskip("jax", reason="needs jax2onnx and flax")
pytest.importorskip("jax2onnx", reason="needs jax2onnx and flax")
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from jax_nets import Convolutional, Linen, Transformer, trained, variables  # noqa: E402

import onnxplain as ox  # noqa: E402
from onnxplain.engine.errors import ExportError, InputError, OptionError  # noqa: E402

pytestmark = [
    pytest.mark.jax,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of jax, flax and jax2onnx among themselves
]

TOLERANCE = 1e-5  # relative to the largest; a few layers in float32
RESIDUAL = 1e-4  # of the sum of all parts' magnitudes, float32


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def distance(actual: Any, expected: Any) -> float:
    wanted = np.asarray(expected)
    return float(np.abs(np.asarray(actual) - wanted).max() / np.abs(wanted).max())


def run(path: Path, feeds: dict[str, Any]) -> list[Any]:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)


def function(model: Any) -> Any:
    """The network in evaluation, apart from the exporter's way to it."""
    copy = nnx.clone(model)
    copy.eval()
    return copy


def linen(image: Any) -> Any:
    return Linen().apply(variables(), image, train=False)["scores"]


NETS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "nnx convolutional": (lambda: trained(Convolutional), function, (13, 12, 3)),
    "nnx transformer": (lambda: trained(Transformer), function, (7, 8)),
    "linen": (lambda: Linen().bind(variables()), lambda _: linen, (8, 8, 3)),
}


@pytest.mark.parametrize("name", NETS)
def test_answers_gradients_and_completeness(name: str, tmp_path: Path) -> None:
    make, of, shape = NETS[name]
    model = make()
    report = ox.export(model, draw(1, *shape), tmp_path / "m.onnx")
    framework, x = of(model), draw(4, *shape)
    source, output = report.inputs[0], report.outputs[-1].name
    assert source.shape == ("batch", *shape)
    assert report.batch_sizes == (1, 3)
    answer = framework(x)
    assert distance(run(report.path, {source.name: x})[-1], answer) < TOLERANCE
    u = np.random.default_rng(4).standard_normal(answer.shape).astype(np.float32)
    expected = jax.grad(lambda image: (framework(image) * u).sum())(jnp.asarray(x))
    ours = ox.vjp(str(report.path), {source.name: x}, {output: u})[source.name]
    assert distance(ours, expected) < TOLERANCE
    assert ox.explain(str(report.path), x, method="fullgrad", output=output).residual.relative.max() < RESIDUAL


def test_layers_are_kept_and_called_by_their_names(tmp_path: Path) -> None:
    model = trained(Convolutional)
    report = ox.export(model, draw(1, 13, 12, 3), tmp_path / "m.onnx")
    graph = onnx.load(report.path).graph
    nodes = {node.name: node for node in graph.node}
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    assert list(nodes["conv1/Conv"].input[1:]) == ["conv1.kernel", "conv1.bias"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes["conv1/Conv"].attribute}
    assert attributes["kernel_shape"] == [3, 3]
    assert attributes["pads"] == [1, 0, 1, 1]  # SAME at stride 2: 13 rows need 2, 12 columns 1, the odd one behind
    assert "auto_pad" not in attributes
    assert list(nodes["bn1/BatchNormalization"].input[1:]) == ["bn1.scale", "bn1.bias", "bn1.mean", "bn1.var"]
    np.testing.assert_array_equal(weights["bn1.mean"], model.bn1.mean[...])
    np.testing.assert_array_equal(weights["conv2.kernel"], np.transpose(model.conv2.kernel[...], (3, 2, 0, 1)))
    assert "head.bias" in weights
    assert not any(node.doc_string or node.metadata_props for node in graph.node)


def test_a_transformers_normalisations_are_layers(tmp_path: Path) -> None:
    report = ox.export(trained(Transformer), draw(1, 7, 8), tmp_path / "m.onnx")
    assert report.operators["LayerNormalization"] == 4
    names = {w.name for w in onnx.load(report.path).graph.initializer}
    assert {"blocks.0.norm1.scale", "blocks.1.attention.query.kernel", "blocks.1.down.bias"} <= names


def test_equal_biases_get_the_name_of_their_layer(tmp_path: Path) -> None:
    model = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(4, 4, rngs=nnx.Rngs(1)))
    report = ox.export(model, draw(1, 4), tmp_path / "m.onnx")
    for node in onnx.load(report.path).graph.node:
        if node.op_type == "Gemm":
            assert node.input[1].removesuffix("kernel") == node.input[2].removesuffix("bias")


def test_the_model_is_left_as_it_was_and_runs_in_evaluation(tmp_path: Path) -> None:
    model = trained(Convolutional)
    model.train()
    mean = np.array(model.bn1.mean[...])
    ox.export(model, draw(4, 13, 12, 3), tmp_path / "m.onnx")
    assert not model.bn1.use_running_average
    assert not model.dropout.deterministic
    np.testing.assert_array_equal(model.bn1.mean[...], mean)


def test_linen_with_its_variables_and_a_dict_of_outputs(tmp_path: Path) -> None:
    report = ox.export(Linen(), draw(1, 8, 8, 3), tmp_path / "m.onnx", params=variables())
    assert [tensor.name for tensor in report.outputs] == ["features", "scores"]
    assert {"Conv_0.kernel", "BatchNorm_0.mean"} <= {w.name for w in onnx.load(report.path).graph.initializer}


def test_functions_of_several_arrays(tmp_path: Path) -> None:
    @jax.jit
    def weighed(x: jax.Array, scale: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.tanh(x) * scale, ids + 1

    sample = {"x": draw(2, 3), "scale": np.float64([1.0, 2.0, 3.0]), "ids": np.arange(2)}
    report = ox.export(weighed, sample, tmp_path / "m.onnx", opset=21)
    assert [(t.name, t.dtype, t.shape) for t in report.inputs] == [
        ("x", "float32", ("batch", 3)),
        ("scale", "float32", (3,)),
        ("ids", "int32", ("batch",)),
    ]
    assert report.opset == 21
    fixed = ox.export(lambda x: x * 2, draw(2, 3), tmp_path / "m.onnx", dynamic_batch=False, output_names=["twice"])
    assert fixed.inputs[0].shape == (2, 3)
    assert fixed.outputs[0].name == "twice"


def test_what_is_refused(tmp_path: Path) -> None:
    out, x = tmp_path / "m.onnx", draw(1, 8, 8, 3)
    with pytest.raises(ExportError, match=r"give module.bind\(variables\)"):
        ox.export(Linen(), x, out)
    with pytest.raises(OptionError, match="only a linen module"):
        ox.export(trained(Transformer), draw(1, 7, 8), out, params={})
    with pytest.raises(OptionError, match="merges no layers"):
        ox.export(trained(Transformer), draw(1, 7, 8), out, fold=True)
    with pytest.raises(OptionError, match="opset 17"):
        ox.export(trained(Transformer), draw(1, 7, 8), out, opset=17)
    with pytest.raises(ExportError, match="the model itself fails"):
        ox.export(trained(Transformer), draw(1, 7, 9), out)
    with pytest.raises(InputError, match="use its names"):
        ox.export(trained(Transformer), {"image": draw(1, 7, 8)}, out)
    with pytest.raises(InputError, match="type list"):
        ox.export(trained(Transformer), ([1.0],), out)
    with pytest.raises(ExportError, match="does not return arrays alone"):
        ox.export(lambda x: "text", x, out)
    with pytest.raises(ExportError, match="jax2onnx cannot translate"):
        ox.export(lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x), x, out)
    assert not out.exists()


SCRIPT = """
import jax, jax.numpy as jnp
import flax.linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.tanh(nn.Dense(4)(x)))

def make():
    return Net().bind(Net().init(jax.random.key(0), jnp.ones((1, 3))))
"""


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SCRIPT)
    out = tmp_path / "m.onnx"
    result = call("export", f"{tmp_path / 'net.py'}:make", "--sample", "1x3", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert "jax2onnx" in result.stdout
    assert "MatMul 2" in result.stdout or "Gemm 2" in result.stdout
    (tmp_path / "net.py").write_text(SCRIPT + "\nmake = Net\n")
    message = refused("export", f"{tmp_path / 'net.py'}:make", "--sample", "1x3", "-o", out)
    assert "give module.bind(variables)" in message
