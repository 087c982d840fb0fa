"""TensorFlow and Keras models to ONNX: every normalisation and bias kept, layers called what Keras calls them.

tf2onnx does the translation. Around it, this module decides what that leaves to chance: which axes stay
open, that the model is traced as it behaves in evaluation, what may be merged, and whether pictures are
given as NHWC, as TensorFlow has them, or as NCHW.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxplain.engine.errors import ExportError, OptionError
from onnxplain.exporters import Exporter, ExportReport, ExportRequest, cleanup, exporters, verify, writing
from onnxplain.exporters.tensorflow_files import is_model, load
from onnxplain.exporters.tensorflow_graph import name_by_layers, translate
from onnxplain.exporters.tensorflow_models import Source, Spec, arrange, draw, source_of

Array = npt.NDArray[Any]

#: tf2onnx writes 9 to 18; below 18 the engine would have to convert what it can be given at once.
OPSETS = range(13, 19)
LAYOUTS = ("channels_last", "channels_first")
_NOISY_LOGGERS = ("tensorflow", "tf2onnx", "absl", "keras")


def can_export(obj: object) -> bool:
    """True for Keras models and layers, tf.functions, modules, loaded SavedModels, and paths of their files.

    Never imports TensorFlow, which made the object if it is one.
    """
    if isinstance(obj, (str, Path)):
        return is_model(Path(obj))
    if any(found is not None and isinstance(obj, found) for found in _others()):
        return False
    keras, tf = sys.modules.get("keras"), sys.modules.get("tensorflow")
    if keras is not None and hasattr(keras, "layers") and isinstance(obj, keras.layers.Layer):
        return True
    if tf is None or not hasattr(tf, "Module"):
        return False
    functions = (tf.types.experimental.ConcreteFunction, tf.types.experimental.PolymorphicFunction)
    return isinstance(obj, (tf.Module, *functions)) or hasattr(obj, "signatures")


def _others() -> tuple[Any, ...]:
    """Classes that Keras shares with another framework, when it runs on that."""
    torch = sys.modules.get("torch")
    return (getattr(getattr(torch, "nn", None), "Module", None),)


def export(
    obj: Any,
    sample: Any,
    request: ExportRequest,
    *,
    layout: str = "channels_last",
    open_axes: bool = False,
    unroll: bool = False,
    signature: str | None = None,
    seed: int = 0,
) -> ExportReport:
    """Write a TensorFlow or Keras model as ONNX; see :func:`onnxplain.exporters.export` for the common arguments.

    Args:
        obj: A Keras model or layer, a tf.function, a tf.Module, a loaded SavedModel, or the path of a
            ``.keras`` or ``.h5`` file or a SavedModel's folder. It is exported as it behaves in evaluation.
        sample: An array or tensor, a tuple of them, or a dict by input name; None draws normal numbers in
            the shapes that the model declares.
        request: What is asked for.
        layout: ``channels_last`` leaves pictures as the model takes them, ``channels_first`` makes the
            file's inputs of four axes NCHW. The sample and the model's outputs stay as they are.
        open_axes: Leave every axis open that the model leaves open, not only the batch.
        unroll: Write Keras's recurrent layers step after step: a GRU is a Loop otherwise, which few methods but
            the gradient can follow. Their sequences need a fixed length.
        signature: Which of a SavedModel's signatures; ``serving_default`` if there is one.
        seed: Seed of a drawn sample.

    Raises:
        ExportError: The model cannot be translated, or the file disagrees with it.
        InputError: The sample does not fit the model's inputs.
        OptionError: Opset outside 13 to 18, or an unknown layout.
        OutputError: The file cannot be written.
    """
    _check(request, layout)
    if isinstance(obj, (str, Path)):
        obj = load(Path(obj))
    with writing.staged(request.path) as staged, quiet():
        source = source_of(obj, signature)
        specs, arrays = arrange(source, tuple(draw(source, seed)) if sample is None else sample)
        expected = source.run(arrays)
        batched = _batched(specs, arrays, request)
        axes = [_axes(spec, array, rows, open_axes) for spec, array, rows in zip(specs, arrays, batched, strict=True)]
        turned = [layout == "channels_first" and array.ndim == 4 and array.dtype.kind == "f" for array in arrays]
        function, layers = source.trace([(a.dtype.name, shape) for a, shape in zip(arrays, axes, strict=True)], unroll)
        made = translate(function, request.opset, request.fold, turned)
        model, after = made.model, cleanup.count_operators(made.model)
        name_by_layers(model, layers)
        names = [spec.name for spec in specs]
        _publish(
            model, request, names, list(expected), [_turn(a) if t else a for a, t in zip(axes, turned, strict=True)]
        )
        files = writing.write(model, staged, request.external_data)
        cases = _cases(source, model, arrays, batched, turned, expected)
        agreement = verify.check_agreement(staged, cases, request.tolerance)
    folded = cleanup.folded(made.before, after)
    rows = [
        len(next(a for a, b in zip(case.inputs.values(), batched, strict=True) if b)) for case in cases if any(batched)
    ]
    return ExportReport(
        path=request.path,
        exporter=_exporter(),
        opset=request.opset,
        ir_version=model.ir_version,
        inputs=tuple(map(cleanup.describe, model.graph.inputs)),
        outputs=tuple(map(cleanup.describe, model.graph.outputs)),
        operators=dict(sorted(after.items())),
        folded=folded,
        max_difference=agreement.max_difference,
        tolerance=agreement.tolerance,
        batch_sizes=tuple(dict.fromkeys(rows)),
        runtime=agreement.runtime,
        notes=(*_notes(source, request, bool(folded), names, turned), *agreement.notes),
        files=files,
    )


exporters.add(
    "tensorflow",
    Exporter(
        "a Keras model, tf.function, tf.Module or SavedModel, or the path of a .keras, .h5 or SavedModel",
        can_export,
        export,
        draws_sample=True,
    ),
)


def _check(request: ExportRequest, layout: str) -> None:
    if request.opset not in OPSETS:
        raise OptionError(
            f"opset {request.opset} cannot be exported: tf2onnx writes {OPSETS.start} to {OPSETS.stop - 1} soundly; "
            "18 is served most widely"
        )
    if layout not in LAYOUTS:
        raise OptionError(f"layout '{layout}' is unknown; use {' or '.join(LAYOUTS)}")
    for package in ("tensorflow", "tf2onnx"):
        if importlib.util.find_spec(package) is None:
            raise ExportError(
                f"TensorFlow models need {package}, which is not installed: pip install 'onnxplain[tensorflow]'"
            )


def _exporter() -> str:
    import tensorflow as tf
    import tf2onnx

    return f"tensorflow {tf.__version__}, tf2onnx {tf2onnx.__version__}"


def _batched(specs: Sequence[Spec], arrays: Sequence[Array], request: ExportRequest) -> list[bool]:
    """Which inputs have the open batch axis: those whose first axis is as long as the first input's."""
    rows = arrays[0].shape[0] if arrays[0].ndim else None
    batched = [request.dynamic_batch and a.ndim > 0 and a.shape[0] == rows for a in arrays]
    fixed = [s.name for s, open_ in zip(specs, batched, strict=True) if open_ and s.shape and s.shape[0] is not None]
    if fixed:
        raise ExportError(
            f"the model fixes the first axis of {', '.join(fixed)}, so the batch cannot be left open; build it without a "
            "batch size, or set dynamic_batch=False"
        )
    return batched


def _axes(spec: Spec, array: Array, batched: bool, open_axes: bool) -> tuple[int | None, ...]:
    declared = spec.shape or array.shape
    free = [open_axes and size is None for size in declared]
    return tuple(
        None if (index == 0 and batched) or (index > 0 and free[index]) else size
        for index, size in enumerate(array.shape)
    )


def _turn(axes: tuple[Any, ...]) -> tuple[Any, ...]:
    return axes[0], axes[3], axes[1], axes[2]


def _publish(
    model: ir.Model,
    request: ExportRequest,
    input_names: list[str],
    output_names: list[str],
    axes: Sequence[tuple[int | None, ...]],
) -> None:
    """Names, shapes and versions of the finished graph, and nothing private in it."""
    cleanup.set_versions(model, request.opset)
    cleanup.strip_private(model, ())
    names = {"input": request.input_names or input_names, "output": request.output_names or output_names}
    shared = sorted(set(names["input"]) & set(names["output"]))
    if shared and request.output_names is None:  # a layer may be called what an input is called
        names["output"] = [f"{name}_output" if name in shared else name for name in names["output"]]
    elif shared:
        raise OptionError(f"{', '.join(shared)} would name an input and an output; give other output_names")
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        cleanup.rename_all(model, kind, values, names[kind])
    for value, shape in zip(model.graph.inputs, axes, strict=True):
        value.shape = ir.Shape(
            [size if size is not None else f"{value.name}_{i}" if i else "batch" for i, size in enumerate(shape)]
        )
    _shapes_again(model, any(shape and shape[0] is None for shape in axes))


def _shapes_again(model: ir.Model, batch_open: bool) -> None:
    """Let ONNX find the open axes: tf2onnx gives each a name of its own, even where they are the same."""
    from onnx_ir.passes.common import ShapeInferencePass

    old: dict[ir.Value, ir.Shape] = {}
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and not value.shape.is_static():
                old[value] = value.shape
                value.shape = None
    with contextlib.suppress(Exception):  # what it cannot do is left as it was
        ShapeInferencePass()(model)
    for value, shape in old.items():
        if value.shape is None:
            value.shape = ir.Shape([size if isinstance(size, int) else None for size in shape])
    for value in model.graph.outputs:
        if batch_open and value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape(["batch", *value.shape[1:]])


def _cases(
    source: Source,
    model: ir.Model,
    arrays: Sequence[Array],
    batched: Sequence[bool],
    turned: Sequence[bool],
    expected: Mapping[str, Array],
) -> list[verify.Case]:
    """The sample, and a second one: of another batch size where the batch is open, else of other values."""
    names = [value.name or "" for value in model.graph.inputs]

    def case(given: Sequence[Array], answer: Mapping[str, Array]) -> verify.Case:
        feeds = [np.ascontiguousarray(a.transpose(0, 3, 1, 2)) if t else a for a, t in zip(given, turned, strict=True)]
        outputs = zip(model.graph.outputs, answer.values(), strict=True)
        return verify.Case(dict(zip(names, feeds, strict=True)), {value.name or "": array for value, array in outputs})

    first = case(arrays, expected)
    if not any(batched):
        other = verify.vary(arrays, [array.ndim > 0 for array in arrays], None)
        return [first, case(other, source.run(other))]
    failure: ExportError | None = None
    for size in (size for size in (3, 2, 4, 8, 16) if size != arrays[0].shape[0]):
        other = verify.vary(arrays, batched, size)
        try:
            return [first, case(other, source.run(other))]
        except ExportError as error:  # some models want, say, even batches
            failure = error
    assert failure is not None  # four sizes have been tried
    raise failure


def _notes(
    source: Source, request: ExportRequest, folded: bool, names: Sequence[str], turned: Sequence[bool]
) -> list[str]:
    notes = []
    if any(turned):
        given = [name for name, first in zip(names, turned, strict=True) if first]
        notes.append(f"{', '.join(given)}: NCHW in the file, NHWC in the model")
    if folded and not request.fold and source.keras is None:
        notes.append(
            "the model has its BatchNormalization written out as Mul and Add; export the Keras model to keep them as such"
        )
    return notes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the translators' warnings, prints and log lines away from the user; what matters is in the report."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels, sink = [logger.level for logger in loggers], io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
