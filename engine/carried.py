"""Baselines of the model's own inputs, from which the model computes those of an inner tensor."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
import onnx_ir as ir

from onnxplain.engine.baselines import make_baselines
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.graph.embeddings import indices_of, lookups
from onnxplain.engine.places import input_labels

#: Words that begin a baseline of the model's own inputs.
KINDS = ("input", "token")


def is_carried(spec: object) -> bool:
    """Whether a baseline is one of the model's own inputs."""
    return isinstance(spec, str) and spec.partition(":")[0] in KINDS


def carried(
    spec: str, feeds: Mapping[str, Array], model: ir.Model, batched: AbstractSet[str]
) -> list[dict[str, Array]]:
    """The model's inputs at the baseline, once for each of several.

    Args:
        spec: ``input:KIND`` or ``token:ID``: see :meth:`onnxplain.engine.call.Call.carry`.
        feeds: The inputs as they are.
        model: The graph that computes the inner tensors.
        batched: Names of the inputs with a sample per row; others stay.

    Raises:
        OptionError: No input of the kind that is meant, or unknown words.
    """
    kind, _, value = spec.partition(":")
    if kind == "token":
        names = token_inputs(model.graph) & set(feeds)
        if not names or not value.lstrip("-").isdigit():
            raise OptionError(
                f"baseline '{spec}' is not possible: "
                + ("write token:0 for the token with the number 0" if names else "no embedding looks up integer inputs")
            )
        return [{n: np.full_like(a, int(value)) if n in names else a for n, a in feeds.items()}]
    values = {v.name or "": v for v in model.graph.inputs}
    floats = [n for n, a in feeds.items() if n in batched and a.dtype.kind == "f"]
    if not floats:
        raise OptionError(f"baseline '{spec}' is not possible: the model has no float input; write token:0 for a token")
    number = as_number(value)
    meant: str | float = value if number is None else number
    sets = {n: make_baselines(meant, feeds[n], input_labels(values[n])) for n in floats}
    return [{**feeds, **{n: one[i] for n, one in sets.items()}} for i in range(len(sets[floats[0]]))]


def token_inputs(graph: ir.Graph) -> set[str]:
    """Graph inputs from which the largest embedding lookup gets its indices."""
    found: set[str] = set()
    queue = [indices_of(node) for node in lookups(graph)[:1]]
    while queue:
        value = queue.pop()
        node = value.producer() if value is not None else None
        if node is not None:
            queue += node.inputs
        elif (
            value is not None
            and value.is_graph_input()
            and value.dtype is not None
            and value.dtype.numpy().kind in "iu"
        ):
            found.add(value.name or "")
    return found


def as_number(text: str) -> float | None:
    """The finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
