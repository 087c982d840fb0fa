"""The kinds of TensorFlow model, each with the inputs that it takes: how to run it and how to trace it.

A Keras model knows its inputs and layers; a function, a module or a SavedModel's signature knows its
arguments. All give the same few operations to :mod:`onnxplain.exporters.tensorflow`. tensorflow and keras
are imported inside the functions only.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import ExportError, InputError
from onnxplain.exporters.keras_layers import Layers, marked

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Spec:
    """One input as the model declares it; None where it declares nothing, or leaves an axis open."""

    name: str
    dtype: str | None = None
    shape: Shape | None = None


@dataclass
class Source:
    """A model: ``call`` takes tensors in the order of ``specs`` and returns any structure of tensors.

    Attributes:
        call: The model, as it behaves in evaluation.
        specs: Its inputs; None where only a sample can tell.
        output_names: What the framework calls the outputs; None where it gives them no names.
        keras: The Keras model or layer behind it, or None.
    """

    call: Callable[[Sequence[Any]], Any]
    specs: list[Spec] | None
    output_names: Sequence[str] | None = None
    keras: Any = None

    def run(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """The framework's own outputs, by the names that they will have in the file.

        Raises:
            ExportError: The model fails on these arrays, or returns something else than tensors.
        """
        import tensorflow as tf

        try:
            answer = self.call([tf.convert_to_tensor(array) for array in arrays])
        except Exception as error:  # the model is the user's code
            shapes = [array.shape for array in arrays]
            raise ExportError(
                f"the model itself fails at inputs of shape {shapes}: {first_line(error)}; "
                "give a sample that it runs on, and dynamic_batch=False if it takes one batch size only"
            ) from error
        leaves = flat(answer)
        return {name: leaf.numpy() for name, leaf in zip(self.names(answer, len(leaves)), leaves, strict=True)}

    def names(self, answer: Any, count: int) -> list[str]:
        """Names of the outputs: a dict's keys, the framework's, else ``output``."""
        if isinstance(answer, Mapping) and len(answer) == count:
            return sorted(map(str, answer))  # the order in which TensorFlow flattens it
        given = self.output_names
        if given is not None and len(given) == count == len(set(given)):
            return list(given)
        return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]

    def trace(self, specs: Sequence[tuple[str, Shape]], unroll: bool) -> tuple[Any, Layers]:
        """A concrete function of tensors of these types and shapes, and the layers behind its operations.

        Args:
            specs: Type and shape of each input; None is an open axis.
            unroll: Write Keras's recurrent layers step after step.

        Raises:
            ExportError: The model cannot be traced.
        """
        import tensorflow as tf

        signature = [tf.TensorSpec(shape, dtype, f"input_{i}") for i, (dtype, shape) in enumerate(specs)]
        function = tf.function(lambda *tensors: flat(self.call(tensors)), input_signature=signature, autograph=False)
        try:
            if self.keras is None:
                return function.get_concrete_function(), Layers()
            with marked(self.keras, unroll) as layers:
                return function.get_concrete_function(), layers
        except Exception as error:  # the model is the user's code
            raise ExportError(
                f"TensorFlow cannot trace the model: {first_line(error)}; "
                "take sizes from tf.shape(x), or set dynamic_batch=False if it takes one batch size by design"
            ) from error


def source_of(obj: Any, signature: str | None) -> Source:
    """The model in the form that is exported.

    Raises:
        ExportError: A model that runs on another framework, or has no function to export.
    """
    import tensorflow as tf

    keras = sys.modules.get("keras")
    if keras is not None and isinstance(obj, keras.layers.Layer):
        return _keras_source(obj)
    signatures = getattr(obj, "signatures", None)
    if isinstance(signatures, Mapping) and (signatures or not callable(obj)):
        return _signature_source(signatures, signature)
    if isinstance(obj, tf.types.experimental.ConcreteFunction):
        return _concrete_source(obj)
    if callable(obj):
        return Source(lambda tensors: obj(*tensors), _declared(obj))
    raise ExportError(f"{type(obj).__name__} cannot be called; give a module with __call__, or a tf.function of it")


# ----- Keras ------------------------------------------------------------------------------------------


def _keras_source(model: Any) -> Source:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"this Keras runs on {keras.backend.backend()}; save the model as .keras and export it with "
            "KERAS_BACKEND=tensorflow"
        )
    declared = getattr(model, "inputs", None) or None
    structure = getattr(model, "_inputs_struct", declared[0] if declared and len(declared) == 1 else declared)
    specs, pack = _keras_inputs(model, structure)
    switch = {"training": False} if _takes_training(model) else {}
    return Source(
        lambda tensors: pack(tensors, lambda *args, **kwargs: model(*args, **kwargs, **switch)),
        specs,
        _keras_outputs(model),
        model,
    )


def _keras_inputs(model: Any, structure: Any) -> tuple[list[Spec] | None, Callable[..., Any]]:
    """The inputs, and how to hand tensors in that order to the model."""
    if isinstance(structure, Mapping):
        keys = list(structure)
        specs = [_spec(structure[key], str(key)) for key in keys]
        return specs, lambda tensors, call: call(dict(zip(keys, tensors, strict=True)))
    if structure is not None:
        several = isinstance(structure, (list, tuple))
        tensors = list(structure) if several else [structure]
        # Keras numbers what the user did not name, by what else the process has made.
        unnamed = [str(tensor.name).startswith("keras_tensor") for tensor in tensors]
        plain = ["input"] if len(tensors) == 1 else [f"input_{index}" for index in range(len(tensors))]
        specs = [_spec(t, name if bare else None) for t, name, bare in zip(tensors, plain, unnamed, strict=True)]
        return specs, lambda tensors, call: call(list(tensors) if several else tensors[0])
    names = [
        parameter.name
        for parameter in inspect.signature(model.call).parameters.values()
        if parameter.name not in ("training", "mask") and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return None, lambda tensors, call: call(**dict(zip(names, tensors, strict=False))) if names else call(*tensors)


def _spec(tensor: Any, name: str | None = None) -> Spec:
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
    return Spec(name or str(tensor.name).partition(":")[0], dtype, tuple(tensor.shape))


def _takes_training(model: Any) -> bool:
    """Keras models take the switch themselves; a layer only where its call has it."""
    import keras

    return isinstance(model, keras.Model) or "training" in inspect.signature(model.call).parameters


def _keras_outputs(model: Any) -> Sequence[str] | None:
    """Keras names an output after the layer that makes it."""
    import keras

    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name] if model.layers else None
    names = getattr(model, "output_names", None)
    return list(map(str, names)) if names else None


# ----- functions --------------------------------------------------------------------------------------


def _signature_source(signatures: Mapping[str, Any], name: str | None) -> Source:
    names = [key for key in signatures if not key.startswith("__")]
    chosen = name or ("serving_default" if "serving_default" in names else names[0] if len(names) == 1 else None)
    if chosen is None or chosen not in names:
        raise ExportError(
            f"the SavedModel has no signature '{chosen}'; give signature={' or '.join(map(repr, names))}"
            if names
            else "the SavedModel has no signature; save the model with one, or export the model itself"
        )
    return _concrete_source(signatures[chosen])


def _concrete_source(function: Any) -> Source:
    """A function that has been traced: its arguments by name where it takes them so."""
    args, kwargs = function.structured_input_signature
    keys = sorted(kwargs)  # a SavedModel keeps no order
    if keys and not args:
        specs = [_spec(kwargs[key], key) for key in keys]
        outputs = function.structured_outputs
        names = sorted(map(str, outputs)) if isinstance(outputs, Mapping) else None
        return Source(lambda tensors: function(**dict(zip(keys, tensors, strict=True))), specs, names)
    specs = [_spec(tensor, tensor.name or f"input_{i}") for i, tensor in enumerate(flat((args, kwargs)))]
    return Source(lambda tensors: function(*tensors), specs)


def _declared(obj: Any) -> list[Spec] | None:
    """Arguments of a tf.function with an input signature, else their names where they can be read."""
    declared = getattr(obj, "input_signature", None) or getattr(getattr(obj, "__call__", None), "input_signature", None)  # noqa: B004
    if declared:
        return [_spec(tensor, tensor.name or f"input_{i}") for i, tensor in enumerate(flat(declared))]
    return None


def flat(structure: Any) -> list[Any]:
    """The tensors of a nested answer, in TensorFlow's order.

    Raises:
        ExportError: There are none, or something else is among them.
    """
    import tensorflow as tf

    leaves = [leaf for leaf in tf.nest.flatten(structure) if leaf is not None]
    other = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, (tf.Tensor, tf.TensorSpec))]
    if other or not leaves:
        raise ExportError(
            f"the model returns {', '.join(other) or 'nothing'}; return tensors, or a tuple or dict of them"
        )
    return leaves


# ----- samples ----------------------------------------------------------------------------------------


def arrange(source: Source, sample: Any) -> tuple[list[Spec], list[Array]]:
    """The inputs by name and type, and the sample's arrays in their order.

    Raises:
        InputError: The sample does not fit the model's inputs.
    """
    specs = source.specs
    if isinstance(sample, Mapping):
        names = [spec.name for spec in specs] if specs is not None else list(map(str, sample))
        if set(names) != set(sample):
            raise InputError(f"the sample has {sorted(map(str, sample))}, the model takes {names}; use its names")
        sample = tuple(sample[name] for name in names)
    elif specs is None:
        names = _argument_names(source, len(sample) if isinstance(sample, (tuple, list)) else 1)
    items = list(sample) if isinstance(sample, (tuple, list)) else [sample]
    if specs is None:
        specs = [Spec(name) for name in names]
    if len(items) != len(specs) or not items:
        wanted = ", ".join(spec.name for spec in specs)
        raise InputError(
            f"the sample has {len(items)} arrays, the model takes {len(specs)} ({wanted}); give one for each"
        )
    default = None if source.keras is None else str(source.keras.input_dtype)  # Keras casts to it
    return specs, [_array(item, spec, default) for item, spec in zip(items, specs, strict=True)]


def _argument_names(source: Source, count: int) -> list[str]:
    if source.keras is not None:
        names = [name for name in inspect.signature(source.keras.call).parameters if name not in ("training", "mask")]
        if len(names) >= count:
            return names[:count]
    return ["input"] if count == 1 else [f"input_{index}" for index in range(count)]


def _array(item: Any, spec: Spec, default: str | None) -> Array:
    import tensorflow as tf

    if isinstance(item, (tf.Tensor, tf.Variable)):
        item = item.numpy()
    if not isinstance(item, (np.ndarray, np.generic)):
        raise InputError(
            f"the sample holds a value of type {type(item).__name__}; "
            "give an array or tensor, a tuple of them, or a dict from input name to array"
        )
    array = np.asarray(item)
    if spec.dtype is None and default is not None and array.dtype.kind == "f":
        array = array.astype(tf.dtypes.as_dtype(default).as_numpy_dtype)
    if spec.dtype is not None and array.dtype.name != spec.dtype:
        wanted = tf.dtypes.as_dtype(spec.dtype).as_numpy_dtype
        if array.dtype.kind == "f" and np.dtype(wanted).kind in "iub":
            raise InputError(f"input {spec.name} takes {spec.dtype}, the sample has {array.dtype}; convert it first")
        array = array.astype(wanted)  # as Keras does
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        raise InputError(f"input {spec.name} has shape {spec.shape}, the sample has {array.shape}; give one that fits")
    return array


def _fits(shape: tuple[int, ...], declared: Shape) -> bool:
    return len(shape) == len(declared) and all(d is None or d == n for n, d in zip(shape, declared, strict=True))


def draw(source: Source, seed: int) -> list[Array]:
    """A sample from what the model declares: normal draws, ids of 0, two rows where the batch is open.

    Raises:
        InputError: It declares too little.
    """
    import tensorflow as tf

    rng, arrays = np.random.default_rng(seed), []
    for spec in source.specs or ():
        if spec.shape is None or spec.dtype is None or None in spec.shape[1:]:
            raise InputError(f"the model leaves the size of its input {spec.name} open ({spec.shape}); give a sample")
        shape = tuple(2 if size is None else size for size in spec.shape)
        dtype = np.dtype(tf.dtypes.as_dtype(spec.dtype).as_numpy_dtype)
        floating = spec.dtype in ("bfloat16", "float16", "float32", "float64")
        arrays.append(rng.standard_normal(shape).astype(dtype) if floating else np.zeros(shape, dtype))
    if not arrays:
        raise InputError("the model does not declare its inputs; give a sample")
    return arrays


def first_line(error: BaseException) -> str:
    """What an exception says, in one line: TensorFlow and Keras write pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
