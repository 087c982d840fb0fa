"""Staged writing: all or nothing, one file or two."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxplain.engine.errors import ExportError, OutputError
from onnxplain.exporters import writing


def _model() -> ir.Model:
    weight = onnx.numpy_helper.from_array(np.arange(512, dtype=np.float32), "w")
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [512]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", tensors[:1], tensors[1:], [weight])
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10))


def test_success_moves_every_file_and_leaves_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"old")
    with writing.staged(target) as staged:
        assert staged.name == "m.onnx"
        assert staged.parent.parent == tmp_path
        staged.write_bytes(b"new")
        staged.with_name("m.onnx.data").write_bytes(b"weights")
        assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert target.read_bytes() == b"new"


def _fail_after_writing(target: Path) -> NoReturn:
    with writing.staged(target) as staged:
        staged.write_bytes(b"half")
        raise ExportError("no")


def test_failure_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"old")
    with pytest.raises(ExportError):
        _fail_after_writing(target)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(("place", "message"), [("no/m.onnx", "make it first"), (".", "it is a folder")])
def test_places_that_cannot_hold_a_file(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(OutputError, match=message), writing.staged(tmp_path / place):
        pytest.fail("the block must not be entered")


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> NoReturn:  # a read-only mode would not stop root, who may run the tests
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OutputError, match=r"m\.onnx: Permission denied"), writing.staged(tmp_path / "m.onnx"):
        pytest.fail("the block must not be entered")


@pytest.mark.parametrize(("external", "names"), [(False, ["m.onnx"]), (True, ["m.onnx", "m.onnx.data"])])
def test_write_gives_the_hashes_of_what_it_wrote(tmp_path: Path, external: bool, names: list[str]) -> None:
    files = writing.write(_model(), tmp_path / "m.onnx", external)
    assert list(files) == names
    for name, digest in files.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    (weight,) = onnx.load(tmp_path / "m.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), np.arange(512, dtype=np.float32))


def test_automatic_choice_follows_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(writing.write(_model(), tmp_path / "small.onnx", None)) == ["small.onnx"]
    monkeypatch.setattr(writing, "ONE_FILE_LIMIT", 1000)
    assert list(writing.write(_model(), tmp_path / "large.onnx", None)) == ["large.onnx", "large.onnx.data"]
    with pytest.raises(ExportError, match="do not fit into one ONNX file"):
        writing.write(_model(), tmp_path / "forced.onnx", False)
