"""A loaded model tells what it takes, what it is made of, and how it may be fed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import ModelFileError, UnsupportedVersionError
from onnxplain.engine.loading import LayerInfo, TensorInfo


def test_inputs_outputs_layers_and_biases() -> None:
    loaded = ox.load(fullgrad_net()[0])
    assert loaded.inputs == [TensorInfo("x", "float", ("N", 1, 4, 4))]
    assert loaded.outputs == [TensorInfo("logits", "float", ("N", 2))]
    assert [layer.operator for layer in loaded.layers] == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "Flatten", "Gemm"]
    assert loaded.layers[0] == LayerInfo("z1_node", "Conv", "z1", ("N", 2, 4, 4))
    assert loaded.biases == ["b1", "b2", "b3"]


def test_summary_names_what_matters() -> None:
    text = ox.load(fullgrad_net()[0]).summary()
    assert "opset 18, 7 nodes, 3 bias tensors" in text
    assert "input  x: float[N, 1, 4, 4]" in text
    assert "output logits: float[N, 2]" in text
    assert "Conv 2, Relu 2" in text


def test_biases_of_additions_and_normalisations() -> None:
    proto = model(
        [
            node("Add", "x a", "h"), node("Sub", "b h", "i"), node("Add", "i h", "j"),
            node("LayerNormalization", "j s c", "k"), node("Mul", "k s", "y"),
        ],
        {"x": ["N", 3]},
        {"y": ["N", 3]},
        {"a": np.ones(3), "b": np.ones(3), "s": np.ones(3), "c": np.ones(3)},
    )  # fmt: skip
    assert ox.load(proto).biases == ["a", "b", "c"], "scales are no biases"


def test_embeddings_largest_table_first() -> None:
    proto = model(
        [
            node("Gather", "small ids", "p"), node("Gather", "large ids", "t"), node("Add", "p t", "e"),
            node("Gather", "e zero", "first", axis=1), node("Gather", "large fixed", "f"), node("Add", "first f", "y"),
        ],
        {"ids": ["N", "T"]},
        {"y": ["N", 4]},
        {"small": np.ones((5, 4)), "large": np.ones((9, 4)), "zero": np.array(0), "fixed": np.array([1])},
    )  # fmt: skip
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    assert ox.load(proto).embeddings() == ["t", "p"], "no slices of activations, no constant rows"


def test_declared_types_and_sizes() -> None:
    proto, _ = fullgrad_net(TensorProto.DOUBLE)
    assert ox.load(proto).declared() == {"x": (np.dtype(np.float64), ("N", 1, 4, 4))}


def test_read_once_given_as_path_text_bytes_or_proto(tmp_path: Path) -> None:
    proto, x = fullgrad_net()
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    first = ox.explain(path, x, method="gradient")
    for source in (str(path), path.read_bytes(), proto, ox.load(path)):
        np.testing.assert_array_equal(
            ox.explain(source, x, method="gradient").attributions["x"], first.attributions["x"]
        )
    handle = ox.load(path)
    assert ox.load(handle) is handle
    assert handle.canonical is handle.canonical, "canonicalised once"


def test_metadata_of_the_file() -> None:
    proto, _ = fullgrad_net()
    onnx.helper.set_model_props(proto, {"author": "me", "labels": "a,b"})
    assert ox.load(proto).metadata == {"author": "me", "labels": "a,b"}


def test_folding_leaves_the_canonical_model_alone() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(2, 1, 3, 3)),
        "s": np.ones(2) * 2,
        "b": np.ones(2),
        "m": np.ones(2),
        "v": np.ones(2),
    }
    nodes = [node("Conv", "x w", "z"), node("BatchNormalization", "z s b m v", "y")]
    loaded = ox.load(model(nodes, {"x": ["N", 1, 5, 5]}, {"y": ["N", 2, 3, 3]}, weights))
    assert [n.op_type for n in loaded.folded.graph] == ["Conv"]
    assert [n.op_type for n in loaded.canonical.graph] == ["Conv", "BatchNormalization"]


def test_external_data_beside_the_file_and_missing(tmp_path: Path) -> None:
    proto, x = fullgrad_net()
    expected = ox.explain(proto, x, method="gradient").attributions["x"]
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    np.testing.assert_array_equal(ox.explain(path, x, method="gradient").attributions["x"], expected)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelFileError, match=r"net\.data.*missing"):
        ox.load(path)


def test_version_out_of_range() -> None:
    proto, _ = fullgrad_net()
    proto.opset_import[0].version = 99
    with pytest.raises(UnsupportedVersionError, match="99"):
        ox.load(proto)
