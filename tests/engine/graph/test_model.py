"""Reading models: every kind of bad file is one of this package's errors, and good ones come in all forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import fullgrad_net, model, node, simple_model

from onnxplain.engine.errors import ModelFileError, UnsupportedVersionError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import MAX_IR, MAX_OPSET, read_model, to_proto
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.session.session import Session

X = np.array([[1.0, -2.0]], np.float32)


def with_external(folder: Path, name: str = "m.onnx") -> Path:
    """The simple model with its weights in ``w.bin`` beside it."""
    path = folder / name
    onnx.save(simple_model(), path, save_as_external_data=True, size_threshold=0, location="w.bin")
    return path


def point(path: Path, **entries: str) -> onnx.ModelProto:
    """The model at ``path`` with external data entries of its first tensor replaced, written back."""
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    known = {e.key: e.value for e in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in known.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    return proto


# ----- good files -----------------------------------------------------------------------------------


def test_path_bytes_and_protos_are_one_model(tmp_path: Path) -> None:
    proto = simple_model()
    data = proto.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for source in (path, str(path), data, proto, ir.from_proto(proto)):
        read = read_model(source)
        assert [n.op_type for n in read.proto.graph.node] == ["Gemm", "Relu", "Gemm"]
        assert read.opset == 18
    assert read_model(path).sha256 == read_model(data).sha256


def test_external_data_are_read_and_run(tmp_path: Path) -> None:
    expected = Session(canonicalise(read_model(simple_model())), threads=1).run({"x": X})["y"]
    canonical = canonicalise(read_model(with_external(tmp_path)))
    for providers in ("cpu", "reference"):
        run = Session(Rewriter(canonical).finish(), providers, threads=1).run({"x": X})
        # 1e-6: the evaluator may add in another order than the runtime.
        np.testing.assert_allclose(run["y"], expected, rtol=1e-6)


def test_to_proto_takes_external_weights_along(tmp_path: Path) -> None:
    canonical = canonicalise(read_model(with_external(tmp_path)))
    proto = to_proto(canonical)
    assert all(t.data_location != TensorProto.EXTERNAL for t in proto.graph.initializer)
    assert isinstance(next(iter(canonical.graph.initializers.values())).const_value, ir.ExternalTensor)


def test_external_data_that_go_away_are_a_file_error(tmp_path: Path) -> None:
    read = read_model(with_external(tmp_path))
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelFileError):
        Session(canonicalise(read))


def test_sha256_covers_external_data(tmp_path: Path) -> None:
    path = with_external(tmp_path)
    before = read_model(path).sha256
    assert before == read_model(path).sha256
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "w.bin").write_bytes(bytes(data))
    assert read_model(path).sha256 != before


def test_links_into_the_folder_of_the_linked_model(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots"
    blobs.mkdir()
    snapshot.mkdir()
    made = with_external(tmp_path)
    made.rename(blobs / "a1")
    (tmp_path / "w.bin").rename(blobs / "b2")
    (snapshot / "m.onnx").symlink_to(blobs / "a1")
    (snapshot / "w.bin").symlink_to(blobs / "b2")
    read = read_model(snapshot / "m.onnx")
    assert Session(canonicalise(read), threads=1).run({"x": X})["y"].shape == (1, 2)


def test_link_to_a_model_whose_data_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    path = with_external(tmp_path / "store")
    (tmp_path / "link.onnx").symlink_to(path)
    assert Session(canonicalise(read_model(tmp_path / "link.onnx")), threads=1).run({"x": X})


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_default_domain_by_both_names(domain: str) -> None:
    proto = model([node("Softmax", "x", "y", axis=1)], {"x": [2, 3, 4]}, {"y": [2, 3, 4]}, opset=11)
    proto.opset_import[0].domain = domain
    proto.graph.node[0].domain = domain
    read = read_model(proto)
    assert read.opset == 11
    canonical = canonicalise(read)
    assert dict(canonical.graph.opset_imports) == {"": 18}
    assert [n.op_type for n in canonical.graph] == ["Flatten", "Softmax", "Reshape"]


def test_a_model_without_the_default_domain_gets_one() -> None:
    proto = model(
        [node("Gelu", "x", "y", domain="com.microsoft")], {"x": [2, 3]}, {"y": [2, 3]}, domains=["com.microsoft"]
    )
    del proto.opset_import[0]
    canonical = canonicalise(read_model(proto))
    assert canonical.graph.opset_imports[""] == 18
    assert Session(canonical, threads=1).run({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 3)


def test_size_of_minus_one_is_open() -> None:
    proto = simple_model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    canonical = canonicalise(read_model(proto))
    assert canonical.graph.inputs[0].shape is not None
    assert canonical.graph.inputs[0].shape[0].value is None  # type: ignore[union-attr]
    assert Session(Rewriter(canonical).finish(), threads=1).run({"x": np.repeat(X, 3, 0)})["y"].shape == (3, 2)


def test_nodes_unused_domains_and_names_do_not_matter() -> None:
    """Seen in real files: nodes out of order, initializers among the inputs, names missing or twice."""
    proto = simple_model()
    expected = Session(canonicalise(read_model(proto)), threads=1).run({"x": X})["y"]
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    for i, n in enumerate(nodes):
        n.name = "" if i == 0 else "same"
        proto.graph.node.append(n)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    proto.opset_import.extend(
        helper.make_opsetid(d, 1) for d in ("com.microsoft", "ai.onnx.ml", "org.pytorch.aten", "x")
    )
    canonical = canonicalise(read_model(proto))
    assert [v.name for v in canonical.graph.inputs] == ["x"]
    assert len({n.name for n in canonical.graph}) == 3
    np.testing.assert_array_equal(Session(canonical, threads=1).run({"x": X})["y"], expected)


# ----- bad files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is a text file\n" * 20,
        b'{"format": "json"}',
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        bytes(1000),
        b"PK\x03\x04" + bytes(range(256)),
    ],
    ids=["empty", "text", "json", "png", "zeros", "zip"],
)
def test_what_is_no_model(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ModelFileError) as caught:
            read_model(source)
        assert "\n" not in str(caught.value)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    for source, words in ((tmp_path, "folder"), (tmp_path / "none.onnx", "no such file"), ("a\0b", "cannot be read")):
        with pytest.raises(ModelFileError, match=words):
            read_model(source)


@pytest.mark.parametrize("source", [None, 3, ["m.onnx"], object()])
def test_objects_that_are_no_model(source: Any) -> None:
    with pytest.raises(ModelFileError, match="cannot be read from an object"):
        read_model(source)


def test_truncated_at_every_length() -> None:
    """No prefix of a file is taken for a model, other than one that only lacks what comes after the graph."""
    data = fullgrad_net()[0].SerializeToString()
    complete = 0
    for length in range(len(data)):
        try:
            read_model(data[:length])
            complete += 1
        except (ModelFileError, UnsupportedVersionError):
            continue
    assert complete == 0


def test_empty_protos() -> None:
    proto = simple_model()
    del proto.graph.output[:]
    for bad in (onnx.ModelProto(), proto):
        with pytest.raises(ModelFileError):
            read_model(bad)


@pytest.mark.parametrize("version", [1, 5, MAX_OPSET + 1, 1000])
def test_opset_out_of_range(version: int) -> None:
    proto = simple_model()
    proto.opset_import[0].version = version
    with pytest.raises(UnsupportedVersionError, match=f"opset {version}"):
        read_model(proto)


@pytest.mark.parametrize("version", [1, 2, MAX_IR + 1, 2**40])
def test_ir_version_out_of_range(version: int) -> None:
    proto = simple_model()
    proto.ir_version = version
    with pytest.raises(UnsupportedVersionError, match=f"IR version {version}"):
        read_model(proto)


def _first(proto: onnx.ModelProto) -> TensorProto:
    return proto.graph.initializer[0]


def test_tensors_that_lack_data() -> None:
    short, empty, typed, unknown, negative = (simple_model() for _ in range(5))
    _first(short).raw_data = _first(short).raw_data[:-1]
    _first(empty).ClearField("raw_data")
    _first(typed).CopyFrom(helper.make_tensor("w1", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0]))
    _first(typed).float_data.append(5.0)
    _first(unknown).data_type = 77
    _first(negative).dims[0] = -2
    for proto in (short, empty, typed, unknown, negative):
        with pytest.raises(ModelFileError, match="tensor 'w1'"):
            read_model(proto)


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.5, 2.5], np.float16),
        np.array([1, 2], np.uint8),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.array(["a", "b"], object),
        np.array(3.0),
        np.zeros((0, 4), np.float32),
    ],
    ids=lambda a: a.dtype.name,
)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_tensors_of_all_types_are_taken(array: np.ndarray[Any, Any], raw: bool) -> None:
    proto = simple_model()
    kind = helper.np_dtype_to_tensor_dtype(array.dtype) if array.dtype != object else TensorProto.STRING
    if kind == TensorProto.STRING:
        tensor = helper.make_tensor("t", kind, array.shape, [s.encode() for s in array])
    elif raw:
        tensor = numpy_helper.from_array(array, "t")
    else:
        tensor = helper.make_tensor("t", kind, array.shape, array.reshape(-1).tolist())
    proto.graph.initializer.append(tensor)
    assert read_model(proto)


def test_damaged_tensors_are_found_inside_nodes_branches_and_functions() -> None:
    bad = numpy_helper.from_array(np.ones(3, np.float32), "bad")
    bad.raw_data = b"\0"
    constant = helper.make_node("Constant", [], ["k"], value=bad)
    outer = model([constant, node("Add", "x k", "y")], {"x": [3]}, {"y": [3]})
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("k", 1, [3])])
    inner = model(
        [node("If", "c", "y", then_branch=branch, else_branch=branch)], {"x": [3]}, {"y": [3]}, {"c": np.array(True)}
    )
    function = helper.make_function(
        "f", "F", ["a"], ["b"], [constant, node("Add", "a k", "b")], [helper.make_opsetid("", 18)]
    )
    called = model([node("F", "x", "y", domain="f")], {"x": [3]}, {"y": [3]}, domains=["f"])
    called.functions.append(function)
    for proto in (outer, inner, called):
        with pytest.raises(ModelFileError, match="tensor 'bad'"):
            read_model(proto)


# ----- bad external data ----------------------------------------------------------------------------


def test_external_data_need_a_folder(tmp_path: Path) -> None:
    path = with_external(tmp_path)
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        with pytest.raises(ModelFileError, match="give the model's path"):
            read_model(source)


def test_external_data_missing_or_too_short(tmp_path: Path) -> None:
    path = with_external(tmp_path)
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[:10])
    with pytest.raises(ModelFileError, match="does not hold tensor"):
        read_model(path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelFileError, match="is missing"):
        read_model(path)
    (tmp_path / "w.bin").mkdir()
    with pytest.raises(ModelFileError, match="is missing"):
        read_model(path)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "absolute", "link.bin", "folder/secret.bin"]
)
def test_external_data_outside_the_folder(location: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = with_external(home)
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "folder").symlink_to(tmp_path, target_is_directory=True)
    point(path, location=str(tmp_path / "secret.bin") if location == "absolute" else location)
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        read_model(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "x"}, {"offset": "-4"}, {"offset": "1e3"}, {"length": ""}, {"length": "-1"}, {"length": "3"},
        {"length": "17"}, {"offset": str(10**30)}, {"location": ""}, {"location": "a\0b"},
    ],
    ids=str,
)  # fmt: skip
def test_external_data_entries_that_are_malformed(entries: dict[str, str], tmp_path: Path) -> None:
    path = with_external(tmp_path)
    point(path, **entries)
    with pytest.raises(ModelFileError, match="tensor 'w1'"):
        read_model(path)
