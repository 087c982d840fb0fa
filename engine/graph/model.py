"""Reads ONNX models: path, bytes or proto, with or without external data, and refuses what is none.

Everything that can be wrong with a file is found here, in one sentence, before anything else runs:
what reaches the passes is a parsed model whose opset and IR version are in range, whose tensors have
as many bytes as their shapes say and whose external data lie inside the model's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxplain.engine.errors import ModelFileError, UnsupportedVersionError

#: Range of ai.onnx opsets that are read: up to what the installed onnx package knows.
MIN_OPSET, MAX_OPSET = 7, min(28, onnx.defs.onnx_opset_version())
#: Range of IR versions that are read.
MIN_IR, MAX_IR = 3, max(13, onnx.IR_VERSION)
#: The newest opset and IR version that onnxruntime 1.31 loads; what is read above them is written down to them.
RUNTIME_OPSET, RUNTIME_IR = 26, 13

ModelSource = str | Path | bytes | onnx.ModelProto | ir.Model


@dataclass
class SourceModel:
    """A model as it was given.

    Attributes:
        proto: The parsed model; external tensors are references, not loaded.
        folder: Folder that external data are relative to; None for bytes and protos.
        path: The file, where there is one.
        name: Name for messages and provenance.
    """

    proto: onnx.ModelProto
    folder: Path | None
    path: Path | None
    name: str
    _sha256: str | None = field(default=None, repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file and of its external data, in the order in which tensors name them."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            if self.path is not None:
                _feed(digest, self.path)
            else:
                digest.update(self.proto.SerializeToString(deterministic=True))
            for location in dict.fromkeys(_locations(self.proto)):
                if self.folder is not None:
                    _feed(digest, self.folder / location)
            self._sha256 = digest.hexdigest()
        return self._sha256

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    def to_ir(self) -> ir.Model:
        """A fresh graph object; external tensors stay on disk until they are read."""
        try:
            model = ir.from_proto(self.proto)
        except Exception as e:  # the deserialiser raises many kinds for malformed content
            raise ModelFileError(f"{self.name}: the graph is malformed ({_first_line(e)}); re-export the model") from e
        if self.folder is not None:
            ir.external_data.set_base_dir(model.graph, str(self.folder))
        return model


def _feed(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def read_model(source: ModelSource) -> SourceModel:
    """Read and validate a model.

    Args:
        source: Path of an ``.onnx`` file, its bytes, or an already parsed proto.

    Raises:
        ModelFileError: Not found, not ONNX, truncated, external data missing or outside the folder.
        UnsupportedVersionError: Opset or IR version out of range.
    """
    if isinstance(source, ir.Model):
        source = ir.to_proto(source)
    if isinstance(source, onnx.ModelProto):
        model = SourceModel(source, None, None, source.graph.name or "model")
    elif isinstance(source, bytes):
        model = SourceModel(_parse(source, "model"), None, None, "model")
    else:
        path = Path(source)
        model = SourceModel(_parse(_read(path), str(path)), path.resolve().parent, path, str(path))
    _check_versions(model)
    for tensor in _tensors(model.proto.graph):
        _check_tensor(tensor, model)
    return model


def _read(path: Path) -> bytes:
    if not path.exists():
        raise ModelFileError(f"{path}: no such file; check the path of the model")
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder, not a model; give the .onnx file inside it")
    try:
        return path.read_bytes()
    except OSError as e:
        raise ModelFileError(f"{path}: cannot be read ({e.strerror}); check its permissions") from e


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise ModelFileError(f"{name}: the file is empty; export or copy the model again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelFileError(
            f"{name}: not an ONNX file, or a truncated one (its protobuf does not parse); export or copy it again"
        ) from None
    if not proto.ir_version or not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise ModelFileError(
            f"{name}: not an ONNX file, or a truncated one (no graph, opset or IR version in it); export or copy it again"
        )
    if not proto.graph.output:
        raise ModelFileError(f"{name}: the graph has no outputs (a truncated file?); export or copy it again")
    return proto


def _check_versions(model: SourceModel) -> None:
    proto = model.proto
    if not MIN_IR <= proto.ir_version <= MAX_IR:
        raise UnsupportedVersionError(
            f"{model.name}: IR version {proto.ir_version} is outside {MIN_IR}..{MAX_IR}, the range that is read; "
            "export the model again with an older IR version"
        )
    uses_default = any(n.domain in ("", "ai.onnx") for n in proto.graph.node) or model.opset
    if uses_default and not MIN_OPSET <= model.opset <= MAX_OPSET:
        raise UnsupportedVersionError(
            f"{model.name}: ai.onnx opset {model.opset} is outside {MIN_OPSET}..{MAX_OPSET}, the supported range; "
            "export the model again, or convert it with onnx.version_converter"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.TENSORS:
                yield from attribute.tensors
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from _tensors(inner)


def _external(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _locations(proto: onnx.ModelProto) -> Iterator[str]:
    for tensor in _tensors(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield _external(tensor).get("location", "")


def _byte_count(tensor: onnx.TensorProto) -> int | None:
    try:
        dtype = ir.DataType(tensor.data_type)
        return int(np.ceil(np.prod(tensor.dims, dtype=np.float64) * dtype.bitwidth / 8))
    except (ValueError, TypeError, KeyError):  # strings and unknown types have no byte count
        return None


def _check_tensor(tensor: onnx.TensorProto, model: SourceModel) -> None:
    needed = _byte_count(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, model, needed)
    elif needed is not None and tensor.HasField("raw_data") and len(tensor.raw_data) != needed:
        raise ModelFileError(
            f"{model.name}: tensor '{tensor.name}' has {len(tensor.raw_data)} bytes where its shape needs {needed} "
            "(a truncated or damaged file); export or copy it again"
        )


def _check_external(tensor: onnx.TensorProto, model: SourceModel, needed: int | None) -> None:
    entry = _external(tensor)
    location = entry.get("location", "")
    if model.folder is None:
        raise ModelFileError(
            f"tensor '{tensor.name}' keeps its data in the external file '{location}', which bytes and protos do not carry; "
            "give the model's path instead"
        )
    target = (model.folder / location).resolve()
    if not location or Path(location).is_absolute() or not target.is_relative_to(model.folder):
        raise ModelFileError(
            f"{model.name}: tensor '{tensor.name}' points to external data '{location}' outside the model's folder, "
            "which is refused for safety; put the data file beside the model"
        )
    if not target.is_file():
        raise ModelFileError(
            f"{model.name}: external data file '{location}' of tensor '{tensor.name}' is missing; copy it beside the model"
        )
    try:
        offset, length = int(entry.get("offset", 0)), int(entry.get("length", needed or 0))
    except ValueError:
        raise ModelFileError(
            f"{model.name}: tensor '{tensor.name}' has a malformed external data entry; export the model again"
        ) from None
    if offset < 0 or length < 0 or offset + length > target.stat().st_size or (needed is not None and length < needed):
        raise ModelFileError(
            f"{model.name}: external data file '{location}' is too short for tensor '{tensor.name}' (truncated?); "
            "copy it again"
        )
