"""Where a shipped file keeps its weights: inside, beside it, or where the source model already has them.

Shared weights are references into the source's own file (a weight's bytes stand in an ``.onnx`` file in one
piece), so that an explanation adds kilobytes to a deployment. The two files then belong together.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import onnx_ir as ir

from onnxplain.engine.errors import OptionError, OutputError
from onnxplain.engine.graph.model import SourceModel, to_proto
from onnxplain.engine.render.png import write_bytes

Weights = Literal["embedded", "external", "shared"]
WEIGHTS: tuple[str, ...] = get_args(Weights)

#: Smaller tensors are always inside: a reference would take as much room.
SMALLEST = 256


@dataclass(frozen=True)
class _Place:
    """Where a tensor's bytes stand."""

    location: str
    offset: int
    length: int


def write(model: ir.Model, path: Path, weights: str = "embedded", source: SourceModel | None = None) -> Path:
    """Write a shipped model; the file is complete or not there.

    Args:
        model: What to write; unchanged.
        path: Where to.
        weights: ``embedded``; ``external``: in ``<path>.data`` beside it; ``shared``: in the source's files.
        source: The model whose weights are shared.

    Raises:
        OptionError: Unknown ``weights``, or a source that is no file in the same folder.
        OutputError: The file cannot be written.
    """
    if weights not in WEIGHTS:
        raise OptionError(f"weights={weights!r} is not possible; choose one of {', '.join(WEIGHTS)}")
    if weights == "external":
        return _write_beside(model, path)
    proto = _sharing(model, path, source) if weights == "shared" else to_proto(model)
    try:
        data = proto.SerializeToString()
    except ValueError as e:
        raise OutputError(
            f"cannot write {path}: the model is above 2 GB, the limit of one file; use weights='external'"
        ) from e
    return write_bytes(path, data)


def _write_beside(model: ir.Model, path: Path) -> Path:
    data = path.with_name(f"{path.name}.data")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent or ".") as folder:
            ir.save(model, Path(folder) / path.name, external_data=data.name, size_threshold_bytes=SMALLEST)
            for made in (data, path):
                if (Path(folder) / made.name).exists():
                    (Path(folder) / made.name).replace(made)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    return path


def _sharing(model: ir.Model, path: Path, source: SourceModel | None) -> onnx.ModelProto:
    if source is None or source.path is None or source.folder is None:
        raise OptionError("weights can be shared with a model that was read from a file; give its path, or embed them")
    if path.parent.resolve() != source.path.parent.resolve():
        raise OptionError(
            f"shared weights stay in '{source.path.name}', so the file has to lie in the same folder; "
            f"write it to {source.path.parent}, or embed them"
        )
    if path.resolve() == source.path.resolve():
        raise OptionError("the file would replace the model that it takes its weights from; choose another name")
    known = dict(_places(source))
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            place = known.get(_key(tensor.tobytes())) if tensor is not None and tensor.nbytes >= SMALLEST else None
            if tensor is None or place is None:
                continue
            value.const_value = ir.ExternalTensor(
                place.location, place.offset, place.length, tensor.dtype, shape=ir.Shape(tensor.numpy().shape),
                name=value.name or "", base_dir=str(source.folder),
            )  # fmt: skip
    proto = ir.to_proto(copy)
    del proto.graph.value_info[:]  # of weights alone, which say their sizes themselves
    return proto


def _key(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _places(source: SourceModel) -> Iterator[tuple[bytes, _Place]]:
    """Where the source's weights stand, by the hash of their bytes."""
    assert source.path is not None
    assert source.folder is not None
    with source.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = 0
        for tensor in _tensors(source.proto):
            entries = {e.key: e.value for e in tensor.external_data}
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                data = onnx.numpy_helper.to_array(tensor, base_dir=str(source.folder)).tobytes()
                yield _key(data), _Place(entries["location"], int(entries.get("offset", 0)), len(data))
                continue
            data = tensor.raw_data or np.asarray(tensor.float_data, np.float32).tobytes()
            if len(data) < SMALLEST:
                continue
            found = content.find(data, cursor)  # in the order of the file, nearly always
            found = found if found >= 0 else content.find(data)
            if found >= 0:
                cursor = found + len(data)
                yield _key(data), _Place(source.path.name, found, len(data))


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
