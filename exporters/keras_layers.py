"""Traces a Keras model so that its graph still says which layer every operation came from.

Keras's own scopes cannot be read back: a second call of `dense` and the first of `dense_1` are both
called `dense_1`. While a model is traced here, each layer opens a scope by number instead, and
BatchNormalization is written as one operation, where Keras would multiply it out. Keras's classes are as
they were when the trace ends. keras and tensorflow are imported inside the functions only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SCOPE = re.compile(r"(?:.*[/_]|^)\.?layer(\d+)(?:\./|\._|__)(.*)$")  # loops have slashes and dots replaced

#: BatchNormalization's operands behind the data, in ONNX's order, as Keras calls them.
NORMALISATION_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass
class Layers:
    """The layers that a trace went through.

    Attributes:
        paths: By number of the scope: the layer's name, its parents' in front. The model itself is "".
        names: By number: the layer's own name, which Keras repeats in its own scope.
        weights: By path: the layer's own weights, by name.
    """

    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    weights: dict[str, dict[str, Array]] = field(default_factory=dict)

    def place(self, name: str) -> tuple[str, str]:
        """The layer's path and what is left of an operation's or tensor's name."""
        found = _SCOPE.match(name)
        if found is None:
            return "", re.sub(r"^((Stateful)?PartitionedCall(_\d+)?/)+", "", name)
        path, rest = self.paths[int(found[1])], found[2]
        first, slash, behind = rest.partition("/")
        own = self.names[int(found[1])]
        if slash and re.fullmatch(rf"{re.escape(own)}(_\d+)?", first):
            rest = behind
        return path, rest

    def public(self, name: str) -> str:
        """An operation's or tensor's name as it is published: the layer's path, then the operation."""
        path, rest = self.place(name)
        return f"{path}/{rest}" if path and rest else path or rest

    def weight_name(self, value: Array, layer: str) -> str | None:
        """Name of the one weight of ``layer`` (or of a layer in it) that holds these numbers in any order."""
        wanted = fingerprint(value)
        inside = [path for path in self.weights if path.startswith(f"{layer}/" if layer else "")]
        for paths in ([layer], inside):
            found = [
                f"{path}/{name}" if path else name
                for path in paths
                for name, weight in self.weights.get(path, {}).items()
                if fingerprint(weight) == wanted
            ]
            if len(found) == 1:
                return found[0]
        return None


def fingerprint(value: Array) -> tuple[str, int, int]:
    """A number that two arrays share when they hold the same elements, however they are laid out."""
    plain = np.ascontiguousarray(value)
    bits = plain.reshape(-1).view(f"u{plain.dtype.itemsize}") if plain.dtype.itemsize in (1, 2, 4, 8) else plain
    return value.dtype.name, value.size, int(bits.sum(dtype=np.uint64)) if bits.dtype.kind == "u" else 0


@contextlib.contextmanager
def marked(model: Any, unroll: bool = False) -> Iterator[Layers]:
    """While open, a traced call of ``model`` leaves each operation in its layer's scope.

    Args:
        model: A Keras model or layer; the outermost one, whose own name is left out of the paths.
        unroll: Write recurrent layers step after step, in place of a loop.

    Yields:
        What the trace went through; its weights are there once the block has ended.
    """
    import keras

    layers, seen = Layers(), _Seen(model)
    plain_call, plain_normalise = keras.layers.Layer.__call__, keras.layers.BatchNormalization.call

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        import tensorflow as tf

        number = seen.enter(layer, layers)
        try:
            # The slash: this very scope, not one like it.
            with tf.name_scope(f".layer{number}./"), _unrolled(layer, unroll):
                return plain_call(layer, *args, **kwargs)
        finally:
            seen.leave()

    keras.layers.Layer.__call__ = call
    keras.layers.BatchNormalization.call = _one_operation(plain_normalise)
    try:
        yield layers
    finally:
        keras.layers.Layer.__call__ = plain_call
        keras.layers.BatchNormalization.call = plain_normalise
    layers.weights = seen.weights()


@contextlib.contextmanager
def _unrolled(layer: Any, wanted: bool) -> Iterator[None]:
    if not wanted or not hasattr(layer, "unroll"):
        yield
        return
    before, layer.unroll = layer.unroll, True
    try:
        yield
    finally:
        layer.unroll = before


class _Seen:
    """The layers being called, outermost first, and all that have been."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.stack: list[str] = []
        self.numbers: dict[tuple[str, int], int] = {}
        self.found: dict[str, Any] = {}

    def enter(self, layer: Any, layers: Layers) -> int:
        parent = self.stack[-1] if self.stack else ""
        path = "" if layer is self.root else f"{parent}/{layer.name}" if parent else layer.name
        self.stack.append(path)
        key = (path, id(layer))
        if key not in self.numbers:
            self.numbers[key] = len(layers.paths)
            layers.paths.append(path)
            layers.names.append(layer.name)
            self.found.setdefault(path, layer)
        return self.numbers[key]

    def leave(self) -> None:
        self.stack.pop()

    def weights(self) -> dict[str, dict[str, Array]]:
        """Each weight once, at the innermost layer that has it."""
        owners: dict[int, tuple[str, Any]] = {}
        for path, layer in sorted(self.found.items(), key=lambda item: len(item[0])):
            owners.update({id(weight): (path, weight) for weight in layer.variables})
        result: dict[str, dict[str, Array]] = {}
        for path, weight in owners.values():
            result.setdefault(path, {})[weight.name] = np.asarray(weight)
        return result


def _one_operation(plain: Callable[..., Any]) -> Callable[..., Any]:
    """BatchNormalization's call in evaluation, as the one operation that ONNX has too.

    It takes four or five axes with the channels last; two or three get axes of length 1. Whatever else
    there is (channels first, float64) goes Keras's own way.
    """

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        import tensorflow as tf

        rank = len(inputs.shape)
        last = self.axis in (-1, rank - 1)
        if training or not last or not 2 <= rank <= 5 or inputs.dtype not in (tf.float32, tf.float16, tf.bfloat16):
            return plain(self, inputs, training=training, mask=mask)
        x = tf.cast(inputs, tf.float32)
        for _ in range(rank, 4):
            x = tf.expand_dims(x, -2)
        mean, variance = (
            tf.cast(tf.convert_to_tensor(v), tf.float32) for v in (self.moving_mean, self.moving_variance)
        )
        y = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.cast(tf.convert_to_tensor(self.gamma), tf.float32) if self.scale else tf.ones_like(mean),
            offset=tf.cast(tf.convert_to_tensor(self.beta), tf.float32) if self.center else tf.zeros_like(mean),
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            data_format="NDHWC" if rank == 5 else "NHWC",
            is_training=False,
        ).y
        return tf.cast(tf.squeeze(y, list(range(rank - 1, 3))) if rank < 4 else y, self.compute_dtype)

    return call
