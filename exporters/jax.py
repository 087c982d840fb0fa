"""JAX and Flax models to ONNX: functions, nnx modules, and linen modules with their variables.

jax2onnx does the translation; it requires onnxruntime, so there is no extra for it but an environment of its own
(docs/exporting.md). Around it, this module decides what that leaves to chance: modules are exported as they behave in
evaluation, the batch stays open, normalisations stay layers, and names of weights and layers survive.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxplain.engine.errors import ExportError, InputError, OptionError
from onnxplain.exporters import Exporter, ExportReport, ExportRequest, cleanup, exporters, verify, writing
from onnxplain.exporters.jax_graph import parameter_name, tidy

Array = npt.NDArray[Any]

OPSETS = range(18, 24)
#: Arguments by which linen modules are switched, and what they are in evaluation.
EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}
_POOLS = ("avg_pool", "max_pool", "min_pool")
#: Collections of linen whose name says nothing about the layer.
_COLLECTIONS = ("params.", "batch_stats.")
INSTALL = "pip install jax2onnx flax, in an environment that has no other onnxruntime"


def can_export(obj: object) -> bool:
    """True for Flax modules, jitted functions, and plain functions where jax is imported; never imports jax."""
    jax = sys.modules.get("jax")
    if jax is None:
        return False
    if _is(obj, "flax.nnx", "Module") or _is(obj, "flax.linen", "Module"):
        return True
    return isinstance(obj, (types.FunctionType, functools.partial, jax.stages.Wrapped))


def _is(obj: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(obj, kind)


@dataclass
class Source:
    """A model in evaluation: what to call, the names of its arguments, and its parameters."""

    call: Callable[..., Any]
    arguments: list[str]
    weights: dict[str, Array] = field(default_factory=dict)

    def run(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """The model's outputs, in jax's order.

        Raises:
            ExportError: The model fails on these arrays, or returns something else than arrays.
        """
        import jax

        try:
            answer = self.call(*map(jax.numpy.asarray, arrays))
        except Exception as error:  # the model is the user's code
            shapes = [array.shape for array in arrays]
            raise ExportError(
                f"the model itself fails at inputs of shape {shapes}: {first_line(error)}; "
                "give a sample that it runs on, and dynamic_batch=False if it takes one batch size only"
            ) from error
        leaves = jax.tree_util.tree_flatten_with_path(answer)[0]
        if not leaves or not all(hasattr(leaf, "shape") for _, leaf in leaves):
            raise ExportError("the model does not return arrays alone; return an array, or a tuple or dict of them")
        named = isinstance(answer, Mapping) and len(answer) == len(leaves)
        names = [str(path[0].key) for path, _ in leaves] if named else [f"output_{i}" for i in range(len(leaves))]
        return {
            name: np.asarray(leaf)
            for name, (_, leaf) in zip(["output"] if len(leaves) == 1 and not named else names, leaves, strict=True)
        }


def export(obj: Any, sample: Any, request: ExportRequest, *, params: Any = None) -> ExportReport:
    """Write a JAX or Flax model as ONNX; see :func:`onnxplain.exporters.export` for the common arguments.

    Args:
        obj: An nnx module, a linen module (bound, or with ``params``), or a function of arrays. Modules are exported as
            they behave in evaluation, and left as they were found.
        sample: An array, a tuple of them, or a dict from argument name to array.
        request: What is asked for.
        params: The variables of a linen module that is not bound, as its ``init`` returns them.

    Raises:
        ExportError: The model cannot be translated, or the file disagrees with it.
        InputError: The sample does not fit the model's arguments.
        OptionError: Opset outside 18 to 23, or an option that does not apply.
        OutputError: The file cannot be written.
    """
    _check(request)
    source = source_of(obj, params)
    names, arrays = _arranged(source, sample)
    with writing.staged(request.path) as staged:
        expected = source.run(arrays)
        batched = [request.dynamic_batch and a.ndim > 0 and a.shape[0] == arrays[0].shape[0] for a in arrays]
        model = _translate(source, arrays, batched, request.opset)
        before = cleanup.count_operators(model)
        tidy(model, source.weights)
        _publish(model, request, names, list(expected))
        files = writing.write(model, staged, request.external_data)
        cases = _cases(source, model, arrays, batched, expected)
        agreement = verify.check_agreement(staged, cases, request.tolerance)
    sizes = [
        len(next(a for a, rows in zip(c.inputs.values(), batched, strict=True) if rows)) for c in cases if any(batched)
    ]
    after = cleanup.count_operators(model)
    return ExportReport(
        path=request.path,
        exporter=_exporter(),
        opset=request.opset,
        ir_version=model.ir_version,
        inputs=tuple(map(cleanup.describe, model.graph.inputs)),
        outputs=tuple(map(cleanup.describe, model.graph.outputs)),
        operators=dict(sorted(after.items())),
        folded=cleanup.folded(before, after),
        max_difference=agreement.max_difference,
        tolerance=agreement.tolerance,
        batch_sizes=tuple(dict.fromkeys(sizes)),
        runtime=agreement.runtime,
        notes=agreement.notes,
        files=files,
    )


exporters.add("jax", Exporter("a Flax module or a function of jax", can_export, export))


def _check(request: ExportRequest) -> None:
    if importlib.util.find_spec("jax2onnx") is None:
        raise ExportError(f"JAX models need jax2onnx, which is not installed: {INSTALL}")
    if request.opset not in OPSETS:
        raise OptionError(
            f"opset {request.opset} cannot be exported: jax2onnx writes {OPSETS.start} to {OPSETS.stop - 1} soundly; "
            "18 is served most widely"
        )
    if request.fold:
        raise OptionError("fold=True: jax2onnx merges no layers; leave fold out")


def _exporter() -> str:
    from importlib.metadata import version

    return f"jax {version('jax')}, jax2onnx {version('jax2onnx')}"


# ----- models -----------------------------------------------------------------------------------------


def source_of(obj: Any, params: Any = None) -> Source:
    """The model as it behaves in evaluation.

    Raises:
        ExportError: A linen module without its variables.
        OptionError: ``params`` for something else.
    """
    if _is(obj, "flax.linen", "Module"):
        return _linen(obj, params)
    if params is not None:
        raise OptionError("params: only a linen module has its variables apart; leave params out")
    if _is(obj, "flax.nnx", "Module"):
        return _nnx(obj)
    return Source(obj, _argument_names(obj))


def _nnx(module: Any) -> Source:
    from flax import nnx

    copy = nnx.clone(module)
    copy.eval()
    state = nnx.state(copy, nnx.filterlib.Not(nnx.RngState))
    return Source(copy, _argument_names(type(module).__call__)[1:], _weights(nnx.to_pure_dict(state)))


def _linen(module: Any, params: Any) -> Source:
    if module.scope is not None:
        module, own = module.unbind()
        params = own if params is None else params
    if params is None:
        raise ExportError(
            "a linen module has no weights of its own; give module.bind(variables), or params=variables, with the "
            "variables that init or training returned"
        )
    names = _argument_names(type(module).__call__)[1:]
    switches = {name: value for name, value in EVALUATION.items() if name in names}
    return Source(
        lambda *arrays: module.apply(params, *arrays, **switches),
        [name for name in names if name not in switches],
        _weights(params),
    )


def _argument_names(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _weights(tree: Any) -> dict[str, Array]:
    import jax

    weights = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = parameter_name(jax.tree_util.keystr(path))
        for collection in _COLLECTIONS:
            name = name.removeprefix(collection)
        if hasattr(leaf, "dtype") and np.issubdtype(leaf.dtype, np.floating):
            weights[name] = np.asarray(leaf)
    return weights


# ----- samples ----------------------------------------------------------------------------------------


def _arranged(source: Source, sample: Any) -> tuple[list[str], list[Array]]:
    """Names of the inputs, and the sample's arrays in their order and in jax's types.

    Raises:
        InputError: The sample does not fit.
    """
    import jax

    known = source.arguments
    if isinstance(sample, Mapping):
        unknown = [str(name) for name in sample if name not in known]
        ordered = [name for name in known if name in sample]
        if unknown or ordered != known[: len(ordered)]:
            raise InputError(
                f"the sample has {', '.join(map(str, sample))}, the model takes {', '.join(known)}; use its names"
            )
        names, items = ordered, [sample[name] for name in ordered]
    else:
        items = list(sample) if isinstance(sample, (tuple, list)) else [sample]
        fits = len(items) <= len(known)
        names = known[: len(items)] if fits else [f"input_{i}" for i in range(len(items))]
    arrays = []
    for item in items:
        if not hasattr(item, "shape") or not hasattr(item, "dtype"):
            raise InputError(
                f"the sample holds a value of type {type(item).__name__}; "
                "give an array, a tuple of them, or a dict from argument name to array"
            )
        arrays.append(np.asarray(jax.numpy.asarray(np.asarray(item))))  # float64 and int64 only where jax has them
    if not arrays:
        raise InputError("the sample is empty; give one example input, batch first")
    return names, arrays


def _cases(
    source: Source, model: ir.Model, arrays: Sequence[Array], batched: Sequence[bool], expected: Mapping[str, Array]
) -> list[verify.Case]:
    """The sample, and a second one: of another batch size where the batch is open, else of other values."""
    names = [value.name or "" for value in model.graph.inputs]
    outputs = [value.name or "" for value in model.graph.outputs]

    def case(given: Sequence[Array], answer: Mapping[str, Array]) -> verify.Case:
        return verify.Case(dict(zip(names, given, strict=True)), dict(zip(outputs, answer.values(), strict=True)))

    first = case(arrays, expected)
    if not any(batched):
        other = verify.vary(arrays, [array.ndim > 0 for array in arrays], None)
        return [first, case(other, source.run(other))]
    failure: ExportError | None = None
    for size in (size for size in (3, 2, 4, 8, 16) if size != len(arrays[0])):
        other = verify.vary(arrays, batched, size)
        try:
            return [first, case(other, source.run(other))]
        except ExportError as error:  # some models want, say, even batches
            failure = error
    assert failure is not None  # four sizes have been tried
    raise failure


# ----- translation ------------------------------------------------------------------------------------


def _translate(source: Source, arrays: Sequence[Array], batched: Sequence[bool], opset: int) -> ir.Model:
    import jax
    from jax2onnx import to_onnx

    from onnxplain.exporters.torch_models import quiet

    specs = [
        jax.ShapeDtypeStruct(("batch", *a.shape[1:]) if rows else a.shape, a.dtype)
        for a, rows in zip(arrays, batched, strict=True)
    ]

    def traced(*tracers: Any) -> Any:
        with _pools_by_position():
            return source.call(*tracers)

    try:
        with quiet():
            model: ir.Model = to_onnx(
                traced,
                inputs=specs,
                opset=opset,
                return_mode="ir",
                normalization_mode="prefer_native",
                enable_double_precision=bool(jax.config.jax_enable_x64),
            )
    except Exception as error:  # tracing runs the user's code, and jax2onnx has no exceptions of its own
        remedy = "; write that step with other functions of jax"
        remedy += ", or set dynamic_batch=False if it takes one batch size by design" if any(batched) else ""
        raise ExportError(f"jax2onnx cannot translate the model: {first_line(error)}{remedy}") from error
    if len(model.graph.inputs) != len(arrays):
        raise ExportError(
            f"jax2onnx wrote {len(model.graph.inputs)} inputs for {len(arrays)} arrays of the sample; leave out arguments "
            "that do not change the answer"
        )
    return model


@contextlib.contextmanager
def _pools_by_position() -> Iterator[None]:
    """jax2onnx replaces Flax's pooling by functions of keywords alone; Flax's own users call it by position, too."""
    undo: list[tuple[Any, str, Any]] = []
    for module in filter(None, map(sys.modules.get, ("flax.nnx", "flax.linen", "flax.linen.pooling"))):
        for name in _POOLS:
            replaced = getattr(module, name, None)
            if replaced is not None:
                undo.append((module, name, replaced))
                setattr(module, name, _by_keyword(replaced))
    try:
        yield
    finally:
        for module, name, replaced in undo:
            setattr(module, name, replaced)


def _by_keyword(pool: Callable[..., Any]) -> Callable[..., Any]:
    order = ("window_shape", "strides", "padding", "count_include_pad")

    def by_keyword(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return pool(inputs, **dict(zip(order, args, strict=False)), **kwargs)

    return by_keyword


def _publish(model: ir.Model, request: ExportRequest, input_names: list[str], output_names: list[str]) -> None:
    """Names and versions of the finished graph, and nothing private in it."""
    cleanup.set_versions(model, request.opset)
    cleanup.strip_private(model, ())
    names = {"input": request.input_names or input_names, "output": request.output_names or output_names}
    shared = sorted(set(names["input"]) & set(names["output"]))
    if shared:
        raise OptionError(f"{', '.join(shared)} would name an input and an output; give other output_names")
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        cleanup.rename_all(model, kind, values, names[kind])
    model.graph.name = "model"


def first_line(error: BaseException) -> str:
    """What an exception says, in one line: jax writes pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
