"""Small Keras models that the exporter's tests share, and ways to read and run what was exported.

The files are run here by onnxruntime directly, apart from the exporter's check.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from keras import layers

Array = np.ndarray[Any, Any]
TOLERANCE = 1e-5  # relative; these nets have a few layers, float32 rounds to 1.2e-7 in each


def settle(model: Any) -> Any:
    """Statistics and biases that are neither 0 nor 1, so that a dropped or swapped one shows."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "bias", "moving_mean"):
            weight.assign(0.2 * rng.standard_normal(weight.shape))
    return model


def convolutional() -> Any:
    """Plain, depthwise and separable convolutions; normalisations of four and of two axes; gelu, layer normalisation."""
    image = keras.Input((12, 10, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv1")(image)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="bn2", scale=False)(x)
    x = layers.SeparableConv2D(8, 3, activation="relu", name="sep")(x)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D(name="pool")(x))
    x = layers.Dense(6, activation="gelu", name="up")(x)
    x = layers.BatchNormalization(name="bn3")(x)
    x = layers.LayerNormalization(name="ln")(x)
    return settle(keras.Model(image, layers.Dense(5, name="logits")(x)))


def sequential() -> Any:
    """Layers without names of the user's, two of a kind, and a softmax."""
    return settle(
        keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(3, 3, activation="relu"),
                layers.Conv2D(3, 3, activation="silu"),
                layers.Flatten(),
                layers.Dense(4, activation="tanh"),
                layers.Dense(3, activation="softmax"),
            ]
        )
    )


def series() -> Any:
    """One-dimensional convolution and normalisation, as a model within a model."""
    inner_input = keras.Input((9, 4))
    inner = keras.Model(
        inner_input, layers.BatchNormalization(name="bn")(layers.Conv1D(4, 3, name="conv")(inner_input))
    )
    inner.name = "inner"
    x = keras.Input((9, 4), name="series")
    y = layers.GlobalAveragePooling1D()(layers.ReLU()(inner(x)))
    return settle(keras.Model(x, layers.Dense(2, name="head")(y)))


def transformer() -> Any:
    """Two pre-norm blocks on seven steps of eight numbers."""
    steps = keras.Input((7, 8), name="steps")
    x = steps
    for block in ("a", "b"):
        h = layers.LayerNormalization(name=f"{block}_ln1")(x)
        x = x + layers.MultiHeadAttention(2, 4, name=f"{block}_mha")(h, h)
        h = layers.Dense(16, activation="gelu", name=f"{block}_up")(layers.LayerNormalization(name=f"{block}_ln2")(x))
        x = x + layers.Dense(8, name=f"{block}_down")(h)
    return settle(keras.Model(steps, layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D()(x))))


def recurrent(*kinds: Any) -> Any:
    """Recurrent layers on seven steps of three numbers; the last of them gives its last state."""
    model = keras.Sequential([keras.Input((7, 3), name="steps"), *kinds, layers.Dense(2, name="head")])
    return settle(model)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def weights(path: Path) -> dict[str, Array]:
    return {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}


def relative(actual: Array, expected: Any) -> float:
    wanted = np.asarray(expected, np.float64)
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max())


def tape_gradient(function: Any, x: Array, cotangent: Array) -> Array:
    """TensorFlow's own gradient of <function(x), cotangent>."""

    @tf.function  # as a graph: eagerly, the gradients of all weights would be computed as well
    def gradient(point: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            value = tf.reduce_sum(function(point) * tf.convert_to_tensor(cotangent))
        return tape.gradient(value, point)

    return np.asarray(gradient(tf.convert_to_tensor(x)))


def distance(actual: Array, expected: Array) -> float:
    """Relative, in the norm."""
    return float(np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected))
