"""Reads TensorFlow's files: ``.keras``, ``.h5``, and SavedModel folders of every age.

tensorflow and keras are imported inside the functions only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxplain.engine.errors import ExportError
from onnxplain.exporters.tensorflow_models import first_line

KERAS_FILES = (".keras", ".h5", ".hdf5")


def is_model(path: Path) -> bool:
    """True for a Keras file or a SavedModel's folder, by its name and without opening it."""
    return path.suffix.lower() in KERAS_FILES or (path / "saved_model.pb").is_file()


@dataclass(frozen=True)
class Graphs:
    """What is left of a SavedModel that only the loader of TensorFlow 1 reads: its signatures."""

    signatures: dict[str, Any]


def load(path: Path) -> Any:
    """The model in a file or folder: a Keras model, or an object with ``signatures``.

    Raises:
        ExportError: TensorFlow is missing, or cannot read it.
    """
    if not path.exists():
        raise ExportError(f"there is no model '{path}'; check the path")
    with hushed():
        try:
            import keras
            import tensorflow as tf
        except ImportError as error:
            raise ExportError(
                f"'{path}' needs TensorFlow ({error}): pip install 'onnxplain[tensorflow]', in an environment of its own "
                "if another framework is pinned there"
            ) from None
        if path.is_dir() and path.suffix.lower() not in KERAS_FILES:
            return _saved_model(tf, path)
        try:
            return keras.models.load_model(path, compile=False)
        except Exception as error:  # h5py, zip, json and Keras raise a dozen unrelated types
            raise ExportError(
                f"Keras cannot read '{path}': {first_line(error)}; a file of weights alone needs its model: "
                "write a function that builds it and loads them, and give SCRIPT.py:FACTORY"
            ) from error


def _saved_model(tf: Any, path: Path) -> Any:
    try:
        loaded = tf.saved_model.load(str(path))
        return Graphs(_signatures(tf, path)) if _has_old_variables(loaded) else loaded
    except Exception as error:  # objects of older versions fail in many ways
        try:
            return Graphs(_signatures(tf, path))
        except Exception as second:
            raise ExportError(
                f"TensorFlow cannot read '{path}': {first_line(error)}; nor as a graph: {first_line(second)}; "
                "save it again with the TensorFlow that wrote it"
            ) from error


def _has_old_variables(loaded: Any) -> bool:
    """Variables by reference, as TensorFlow 1 had them by default, which only its own loader makes constant."""
    for function in loaded.signatures.values():
        graph = function.graph.as_graph_def()
        nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
        if any(node.op in ("Variable", "VariableV2") for node in nodes):
            return True
    return False


def _signatures(tf: Any, path: Path) -> dict[str, Any]:
    """The signatures as functions, from the graph and the checkpoint, past the objects of the file."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        loaded = v1.saved_model.load(session, [tf.saved_model.SERVING], str(path))
        signatures = {key: value for key, value in loaded.signature_def.items() if not key.startswith("__")}
        ends = [info.name.partition(":")[0] for signature in signatures.values() for info in signature.outputs.values()]
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), sorted(set(ends)))
    return {key: _function(tf, frozen, signature) for key, signature in signatures.items()}


def _function(tf: Any, frozen: Any, signature: Any) -> Any:
    """The graph between a signature's inputs and outputs, as a function of arguments by name."""
    imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(frozen, name=""), [])
    graph = imported.graph
    inputs = {key: graph.as_graph_element(info.name) for key, info in sorted(signature.inputs.items())}
    outputs = {key: graph.as_graph_element(info.name) for key, info in sorted(signature.outputs.items())}
    pruned = imported.prune(list(inputs.values()), outputs)
    specs = {key: tf.TensorSpec(tensor.shape, tensor.dtype, key) for key, tensor in inputs.items()}

    def call(**tensors: Any) -> Any:
        return pruned(*(tensors[key] for key in specs))

    return tf.function(call, autograph=False).get_concrete_function(**specs)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep what TensorFlow's C++ writes while it starts from the user's terminal.

    It writes to file descriptor 2 itself, whatever Python's streams are.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
