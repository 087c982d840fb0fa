"""Reads ONNX models: path, bytes or proto, with or without external data, and refuses what is none.

Everything that can be wrong with a file is found here, in one sentence, before anything else runs:
what reaches the passes is a parsed model whose opset and IR version are in range, whose tensors have
as many bytes as their shapes say and whose external data lie inside the model's folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxplain.engine.errors import ModelFileError, UnsupportedVersionError
from onnxplain.engine.graph.dictionaries import without_dictionaries
from onnxplain.engine.graph.wellformed import check_structure

#: Range of ai.onnx opsets that are read: up to what the installed onnx package knows.
MIN_OPSET, MAX_OPSET = 6, min(28, onnx.defs.onnx_opset_version())
#: Range of IR versions that are read.
MIN_IR, MAX_IR = 3, max(13, onnx.IR_VERSION)
#: The newest opset and IR version that onnxruntime 1.31 loads; what is read above them is written down to them.
RUNTIME_OPSET, RUNTIME_IR = 26, 13
#: Opset of the default domain for models that import none, so that nodes of it can be added.
FALLBACK_OPSET = 18

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
        proto = without_dictionaries(self.proto, self.name)
        try:
            model = ir.from_proto(_dense(proto))
        except Exception as e:  # the deserialiser raises many kinds for malformed content
            raise ModelFileError(f"{self.name}: the graph is malformed ({_first_line(e)}); re-export the model") from e
        if self.folder is not None:
            ir.external_data.set_base_dir(model.graph, str(self.folder))
            _follow_links(model, self.folder)
        for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
            imports[""] = imports.pop("ai.onnx", imports.get("", self.opset or FALLBACK_OPSET))
        for value in model.graph.inputs:  # a size of -1 is how some exporters write an open one
            if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape):
                value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in value.shape])
        return model


def _dense(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with sparse initializers, which the graph objects do not know, written out."""
    if not proto.graph.sparse_initializer:
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    for sparse in proto.graph.sparse_initializer:
        values, indices = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
        array = np.zeros(tuple(sparse.dims), values.dtype)
        array[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, array.shape)] = values
        result.graph.initializer.append(onnx.numpy_helper.from_array(array, sparse.values.name))
    del result.graph.sparse_initializer[:]
    return result


def _follow_links(model: ir.Model, folder: Path) -> None:
    """Point tensors whose data file is a link, which was checked when the model was read, at the file itself."""
    for value in (v for g in model.graphs() for v in g.initializers.values()):
        old = value.const_value
        if isinstance(old, ir.ExternalTensor) and not (real := (folder / old.location).resolve()).is_relative_to(
            folder
        ):
            value.const_value = ir.ExternalTensor(
                real.name,
                old.offset,
                old.length,
                old.dtype,
                shape=old.shape,
                name=old.name or "",
                base_dir=str(real.parent),
            )


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one message with all weights inside it, wherever they are kept.

    Raises:
        ModelFileError: External data cannot be read any more, or the model holds what no file can.
    """
    if any(isinstance(v.const_value, ir.ExternalTensor) for g in model.graphs() for v in g.initializers.values()):
        model = model.clone()
        try:
            ir.external_data.load_to_model(model)
        except (OSError, ValueError) as e:
            raise ModelFileError(
                f"the model's external data cannot be read ({_first_line(e)}); keep the file where it was"
            ) from e
    try:
        return ir.to_proto(model)
    except (ir.serde.SerdeError, ValueError, TypeError) as e:
        reason = _first_line(e.__cause__ or e)
        raise ModelFileError(f"the model cannot be written ({reason}); check the file with onnx.checker") from e


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
        source = to_proto(source)
    if isinstance(source, onnx.ModelProto):
        model = SourceModel(source, None, None, source.graph.name or "model")
        _check_content(source, model.name)
    elif isinstance(source, bytes):
        model = SourceModel(_parse(source, "model"), None, None, "model")
    elif isinstance(source, (str, Path)):
        path = Path(source)
        proto = _parse(_read(path), str(path))
        model = SourceModel(proto, _data_folder(path, proto), path, str(path))
    else:
        raise ModelFileError(
            f"a model cannot be read from an object of type {type(source).__name__}; give a path, bytes or onnx.ModelProto"
        )
    _check_versions(model)
    check_structure(model.proto, model.name)
    for tensor in _all_tensors(model.proto):
        _check_tensor(tensor, model)
    return model


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelFileError(f"{path}: is a folder, not a model; give the .onnx file inside it")
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; check the path of the model") from None
    except (OSError, ValueError) as e:  # a path with a zero character in it is a ValueError
        reason = e.strerror if isinstance(e, OSError) else e
        raise ModelFileError(f"{path}: cannot be read ({reason}); check the path and its permissions") from e


def _data_folder(path: Path, proto: onnx.ModelProto) -> Path:
    """Folder of the external data: the path's own, or where the path is a link, the folder of the file it points to.

    Content-addressed caches keep model and data as links to files of other names, all in one folder. The data
    are then reached through links beside the model, and lie beside the file that the model's link points to.
    """
    own, real = path.parent.resolve(), path.resolve().parent
    names = list(_locations(proto))
    return own if own == real or any(n and "\0" not in n and (own / n).exists() for n in names) else real


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise ModelFileError(f"{name}: the file is empty; export or copy the model again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError):  # the second from protobuf in pure Python
        raise ModelFileError(
            f"{name}: not an ONNX file, or a truncated one (its protobuf does not parse); export or copy it again"
        ) from None
    _check_content(proto, name)
    return proto


def _check_content(proto: onnx.ModelProto, name: str) -> None:
    if not proto.ir_version or not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise ModelFileError(
            f"{name}: not an ONNX file, or a truncated one (no graph, opset or IR version in it); export or copy it again"
        )
    if not proto.graph.output:
        raise ModelFileError(f"{name}: the graph has no outputs (a truncated file?); export or copy it again")


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


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
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
    for tensor in _all_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield _external(tensor).get("location", "")


#: The field that holds a tensor's elements where they are not raw bytes; small types share int32_data.
_FIELDS: dict[int, tuple[str, int]] = {
    onnx.TensorProto.FLOAT: ("float_data", 1),
    onnx.TensorProto.COMPLEX64: ("float_data", 2),
    onnx.TensorProto.DOUBLE: ("double_data", 1),
    onnx.TensorProto.COMPLEX128: ("double_data", 2),
    onnx.TensorProto.INT64: ("int64_data", 1),
    onnx.TensorProto.UINT64: ("uint64_data", 1),
    onnx.TensorProto.UINT32: ("uint64_data", 1),
    onnx.TensorProto.STRING: ("string_data", 1),
}


def _byte_count(tensor: onnx.TensorProto, name: str) -> int | None:
    """Bytes that the tensor's shape needs; None for strings."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED or any(d < 0 for d in tensor.dims):
        raise ModelFileError(
            f"{name}: tensor '{tensor.name}' has no known element type, or a negative size (a damaged file); export it again"
        )
    return None if dtype == ir.DataType.STRING else -(-math.prod(tensor.dims) * int(dtype.bitwidth) // 8)


def _check_tensor(tensor: onnx.TensorProto, model: SourceModel) -> None:
    needed = _byte_count(tensor, model.name)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, model, needed)
        return
    if needed is not None and tensor.HasField("raw_data"):
        found, unit = len(tensor.raw_data), "bytes"
    else:
        field_name, parts = _FIELDS.get(tensor.data_type, ("int32_data", 1))
        found, unit = len(getattr(tensor, field_name)), "elements"
        needed = math.prod(tensor.dims) * parts
        if field_name == "int32_data" and ir.DataType(tensor.data_type).bitwidth < 8:
            found = needed  # how many of those stand in one number differs between writers
    if found != needed:
        raise ModelFileError(
            f"{model.name}: tensor '{tensor.name}' has {found} {unit} where its shape needs {needed} "
            "(a truncated or damaged file); export or copy it again"
        )


def _trusted(model: SourceModel) -> list[Path]:
    """Folders that external data may lie in: the model's, and that of the file which the model's path links to."""
    return [f for f in (model.folder, model.path.resolve().parent if model.path is not None else None) if f is not None]


def _check_external(tensor: onnx.TensorProto, model: SourceModel, needed: int | None) -> None:
    entry = _external(tensor)
    location = entry.get("location", "")
    if model.folder is None:
        raise ModelFileError(
            f"tensor '{tensor.name}' keeps its data in the external file '{location}', which bytes and protos do not carry; "
            "give the model's path instead"
        )
    if not location or "\0" in location:
        raise ModelFileError(
            f"{model.name}: tensor '{tensor.name}' has a malformed external data entry; export the model again"
        )
    target = (model.folder / location).resolve()
    if Path(location).is_absolute() or not any(target.is_relative_to(f) for f in _trusted(model)):
        raise ModelFileError(
            f"{model.name}: tensor '{tensor.name}' points to external data '{location}' outside the model's folder "
            "(links are followed), which is refused for safety; put the data file beside the model"
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
    if offset < 0 or length < 0 or offset + length > target.stat().st_size or (needed is not None and length != needed):
        raise ModelFileError(
            f"{model.name}: external data file '{location}' does not hold tensor '{tensor.name}' where the model says "
            f"(it has {target.stat().st_size} bytes; truncated?); copy it again"
        )
