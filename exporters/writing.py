"""Writes an ONNX model so that a failure leaves nothing: a folder beside the target first, the move last.

The model is complete and checked in the temporary folder before any file of the user's is touched. The
names inside it are the final ones, so the file's reference to its external data stays right.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from onnxplain.engine.errors import ExportError, OutputError

# Protobuf holds a message below 2**31 bytes; the graph itself has to fit beside the weights.
ONE_FILE_LIMIT = 2_000_000_000


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a file name in a temporary folder beside ``path``; move all of that folder's files on success.

    Yields:
        The path to write to: the final file name, in the temporary folder.

    Raises:
        OutputError: The folder does not exist or takes no files, or ``path`` is a folder.
    """
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; choose a folder you may write to"
        ) from error
    try:
        yield folder / path.name
        _move(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, path: Path) -> None:
    """Move the staged files, the model last: until then a reader sees the old model or none."""
    files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    try:
        for file in files:
            file.replace(path.parent / file.name)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another file name") from error


def write(model: ir.Model, path: Path, external_data: bool | None) -> dict[str, str]:
    """Write ``model``, with its weights inside or in ``<path>.data``.

    Args:
        model: The model; unchanged.
        path: Where to; existing files are replaced.
        external_data: True or False force it, None takes one file below 2 GB.

    Returns:
        SHA-256 by file name, the ONNX file first.

    Raises:
        ExportError: One file was asked for and the weights do not fit, or the model cannot be serialised.
        OutputError: The disk refuses.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if external_data is None:
        external_data = size > ONE_FILE_LIMIT
    elif not external_data and size > ONE_FILE_LIMIT:
        raise ExportError(
            f"{size / 1e9:.1f} GB of weights do not fit into one ONNX file (limit {ONE_FILE_LIMIT / 1e9:.0f} GB); "
            "leave external_data=None"
        )
    data = path.with_name(path.name + ".data")
    try:
        ir.save(model, path, format="protobuf", external_data=data.name if external_data else None)
        written = [path, data] if data.exists() else [path]
        return {file.name: _sha256(file) for file in written}
    except OSError as error:
        raise OutputError(
            f"cannot write {path.name}: {error.strerror or error}; make room or choose another"
        ) from error
    except Exception as error:  # serialisation errors of onnx_ir and protobuf have no common base
        raise ExportError(f"the exported graph cannot be written as ONNX: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
