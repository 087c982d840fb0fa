"""The raw engine: vector-Jacobian products of any ONNX model, for inputs, initializers and inner tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import InputError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import ModelSource, read_model
from onnxplain.engine.graph.shapes import dims, is_float
from onnxplain.engine.rewrite import COTANGENT, Rewriter
from onnxplain.engine.session.providers import ProviderSpec
from onnxplain.engine.session.session import Session


def vjp(
    model: ModelSource,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    cotangents: Mapping[str, np.ndarray[Any, Any]],
    *,
    wrt: Sequence[str] | None = None,
    providers: str | Sequence[ProviderSpec] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Vector-Jacobian products ``u^T J``.

    Args:
        model: Path, bytes or proto.
        inputs: Array per model input.
        cotangents: Array per graph output (or inner float tensor) in that tensor's shape; outputs that are
            left out count as zero.
        wrt: Names of inputs, initializers or inner tensors; all float inputs by default.
        providers: Execution providers, or ``"reference"`` for the exact, slow evaluator, which has float64
            for every operator.

    Returns:
        Array per name in ``wrt``, in that tensor's shape and type. A tensor that the gradient does not
        reach, because no output depends on it, gets zeros.

    Raises:
        InputError: Unknown names, or no float input to differentiate by.
        UnsupportedNodeError: A node between them has no sound rule.
        BlockedGradientError: No differentiable path leads from any of them to a cotangent.
    """
    rewriter = Rewriter(canonicalise(read_model(model)))
    names = list(wrt) if wrt is not None else [v.name or "" for v in rewriter.graph.inputs if is_float(v)]
    if not names:
        raise InputError("the model has no float input to differentiate by; name an inner tensor in wrt=")
    wanted = [rewriter.value(name) for name in names]
    seeds: dict[ir.Value, ir.Value] = {}
    feeds = dict(inputs)
    for name, array in cotangents.items():
        value = rewriter.value(name)
        if not is_float(value):
            raise InputError(f"'{name}' is no float tensor, so it has no cotangent; seed a float output")
        seed = rewriter.add_input(f"{COTANGENT}/{name}", value.dtype or ir.DataType.FLOAT, dims(value))
        seeds[value] = seed
        feeds[seed.name or ""] = array
    adjoints = rewriter.backward_from(seeds, wanted)
    results = {}
    for name, value in zip(names, wanted, strict=True):
        adjoint = adjoints.of.get(value)
        if adjoint is None:  # the path never reaches this one: its derivative is zero
            adjoint = rewriter.op.Mul(value, 0.0)
        results[name] = rewriter.add_output(f"gradient/{name}", adjoint)
    session = Session(rewriter.finish(), providers)
    arrays = session.run(feeds, list(results.values()))
    return {name: arrays[output] for name, output in results.items()}
