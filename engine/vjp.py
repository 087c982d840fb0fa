"""The raw engine: vector-Jacobian products of any ONNX model, for inputs, initializers and inner tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import ModelSource, read_model
from onnxplain.engine.graph.shapes import Dims, dims, is_float
from onnxplain.engine.layout import zeros_like
from onnxplain.engine.rewrite import COTANGENT, Rewriter
from onnxplain.engine.session.blame import blaming
from onnxplain.engine.session.custom_ops import CustomOps
from onnxplain.engine.session.providers import ProviderSpec, resolve
from onnxplain.engine.session.session import Session
from onnxplain.engine.session.training_backend import training_gradients
from onnxplain.engine.shipping.profiles import profile_of

#: The other backend.
TRAINING = "ort-training"

#: Stem of the outputs that tell the seeded tensors' shapes.
SHAPE = "shape"


class Gradients(dict[str, np.ndarray[Any, Any]]):
    """Array per tensor, and what they lack.

    Attributes:
        blocked: Nodes at which part of the gradient ends although a cotangent's tensor depends on what enters
            them, with reason and remedy. What lies behind them is missing from the arrays; where nothing
            is blocked, a zero is a zero.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]], blocked: Sequence[str] = ()) -> None:
        super().__init__(arrays)
        self.blocked = tuple(blocked)


def vjp(
    model: ModelSource,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    cotangents: Mapping[str, np.ndarray[Any, Any]],
    *,
    wrt: Sequence[str] | None = None,
    providers: str | Sequence[ProviderSpec] | None = None,
    custom_ops: CustomOps | None = None,
    backend: str | None = None,
) -> Gradients:
    """Vector-Jacobian products ``u^T J``.

    Args:
        model: Path, bytes or proto.
        inputs: Array per model input.
        cotangents: Array per graph output (or inner float tensor) in that tensor's shape; outputs that are
            left out count as zero.
        wrt: Names of inputs, initializers or inner tensors; all float inputs by default.
        providers: Execution providers, or ``"reference"`` for the exact, slow evaluator, which has float64
            for every operator.
        custom_ops: What implements the model's custom operators; see :func:`onnxplain.load`.
        backend: ``"ort-training"``: onnxruntime-training's derivatives instead of the engine's own rules. A second
            opinion, in float32 on the CPU and for fewer operators; ``onnxplain doctor`` says how to get it.

    Returns:
        Array per name in ``wrt``, in that tensor's shape and type. A tensor that the gradient does not
        reach gets zeros: no output depends on it, or the ways to it are listed in the result's ``blocked``.

    Raises:
        InputError: Unknown names, or no float input to differentiate by.
        OptionError: Unknown backend, or one that takes neither providers nor custom operators.
        RuntimeMissingError: The backend is not installed.
        UnsupportedNodeError: A node between them has no sound rule, or the backend gets it wrong.
        BlockedGradientError: No gradient reaches any of them: none depends on them, or it is blocked everywhere.
    """
    source = read_model(model)
    canonical = canonicalise(source, training=True)
    rewriter = Rewriter(canonical)
    running = profile_of(resolve(providers))
    rewriter.op.portable, rewriter.op.lacks = running.portable, running.lacks
    names = list(wrt) if wrt is not None else [v.name or "" for v in rewriter.graph.inputs if is_float(v)]
    if not names:
        raise InputError("the model has no float input to differentiate by; name an inner tensor in wrt=")
    if not cotangents:
        raise InputError("no cotangent was given; name at least one output and give an array of its shape")
    wanted = [_float(rewriter, name) for name in names]
    feeds = _inputs(rewriter, inputs)
    if backend is not None:
        _check_backend(backend, providers, custom_ops)
        for name in cotangents:
            _float(rewriter, name)
        arrays, ends = training_gradients(canonical, feeds, cotangents, names)
        return Gradients(arrays, ends)
    seeds: dict[ir.Value, ir.Value] = {}
    sizes: dict[str, str] = {}
    for name, array in cotangents.items():
        value = _float(rewriter, name)
        seed = rewriter.add_input(f"{COTANGENT}/{name}", value.dtype or ir.DataType.FLOAT, dims(value))
        seeds[value] = seed
        _check_shape(name, np.shape(array), _bound(dims(value), rewriter, feeds))
        sizes[name] = rewriter.add_output(f"{SHAPE}/{name}", rewriter.op.Shape(value))
        feeds[seed.name or ""] = np.asarray(array).astype(
            (value.dtype or ir.DataType.FLOAT).numpy(), casting="same_kind"
        )
    with blaming(canonical, source.name):
        adjoints = rewriter.backward_from(seeds, wanted)
    results = {}
    for name, value in zip(names, wanted, strict=True):
        adjoint = adjoints.of.get(value)
        if adjoint is None:  # the path never reaches this one: its derivative is zero
            adjoint = zeros_like(rewriter.op, value)
        results[name] = rewriter.add_output(f"gradient/{name}", adjoint)
    session = Session(rewriter.finish(), providers, custom_ops=custom_ops)
    arrays = session.run(feeds, [*results.values(), *sizes.values()])
    for name, output in sizes.items():  # a cotangent of another shape could broadcast, and give another product
        _check_shape(name, np.shape(cotangents[name]), tuple(int(n) for n in arrays[output]))
    return Gradients(
        {name: arrays[output] for name, output in results.items()}, [str(b) for b in adjoints.path.blocked]
    )


def _check_backend(backend: str, providers: object, custom_ops: object) -> None:
    if backend != TRAINING:
        raise OptionError(
            f"unknown backend {backend!r}; the one there is beside the engine's own rules is '{TRAINING}'"
        )
    for name, given in (("providers", providers), ("custom_ops", custom_ops)):
        if given is not None:
            raise OptionError(f"backend='{TRAINING}' runs on the CPU, without custom operators; leave {name}= out")


def _float(rewriter: Rewriter, name: str) -> ir.Value:
    value = rewriter.value(name)
    if not is_float(value):
        raise InputError(f"'{name}' is no float tensor, so it has neither gradient nor cotangent; name a float tensor")
    return value


def _inputs(rewriter: Rewriter, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The model's inputs by name; their shapes and types are left to the runtime, infinities are allowed here."""
    known = [v.name or "" for v in rewriter.graph.inputs]
    for name in {*known, *inputs}:
        if name not in known or name not in inputs:
            problem = "is missing" if name in known else "is none of the model's"
            raise InputError(f"input '{name}' {problem}; the model takes {', '.join(known)}")
    return dict(inputs)


def _bound(shape: Dims | None, rewriter: Rewriter, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Dims | None:
    """A shape with the symbols replaced by the sizes that the inputs give them."""
    symbols = {
        d: size
        for v in rewriter.graph.inputs
        if v.name is not None and v.name in feeds
        for d, size in zip(dims(v) or (), np.shape(feeds[v.name]), strict=False)
        if isinstance(d, str)
    }
    return None if shape is None else tuple(symbols.get(d, d) if isinstance(d, str) else d for d in shape)


def _check_shape(name: str, given: tuple[int, ...], wanted: Dims | None) -> None:
    if wanted is None:
        return
    if len(given) != len(wanted) or any(isinstance(w, int) and g != w for g, w in zip(given, wanted, strict=True)):
        raise InputError(f"the cotangent of '{name}' has shape {given}; give one of shape {wanted}")
