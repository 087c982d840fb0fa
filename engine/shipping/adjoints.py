"""The raw file: the adjoint of the input and of every bias position, for people who aggregate themselves.

For a bias c of a tensor v the full-gradient term is ``<a_v, c>``; the file returns every ``a_v`` once, and its
metadata say which biases belong to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import jsonable
from onnxplain.engine.method import Plan, Subject
from onnxplain.engine.rewrite import Rewriter, Seed
from onnxplain.engine.shipping.compact import compact
from onnxplain.engine.shipping.spelling import spell
from onnxplain.engine.terms import bias_terms

GRADIENT, ADJOINT = "gradient", "adjoint"


def ship_adjoints(
    rewriter: Rewriter,
    subjects: Sequence[Subject],
    seed: Seed,
    output: str | None,
    facts: Mapping[str, Any],
    results: Sequence[str] | None = None,
) -> ir.Model:
    """The model's outputs, ``gradient`` (with the input's name where there are several) and ``adjoint/TENSOR``.

    Args:
        rewriter: Over a fresh copy of the model.
        subjects: What is differentiated with respect to.
        seed: The explained scalar.
        output: Name of the explained output.
        facts: What the file says about itself.
        results: What a method's file would return; here there is nothing to choose.

    Raises:
        OptionError: ``results`` are given.
    """
    if results is not None:
        raise OptionError(
            "results choose from what a method returns; a file of adjoints has all of them; leave one out"
        )
    plan = Plan(rewriter, seed, list(subjects), output_name=output)
    gradients = plan.gradients()
    assert plan.adjoints is not None
    terms = bias_terms(rewriter.op, plan.adjoints, {s.value: s.labels for s in subjects})
    for name, value in gradients.items():
        rewriter.add_output(GRADIENT if len(gradients) == 1 else f"{GRADIENT}/{name}", value)
    returned: dict[ir.Value, str] = {}
    entries = []
    for term in terms:
        if term.kind != "explicit":
            continue
        if term.adjoint not in returned:
            returned[term.adjoint] = rewriter.add_output(f"{ADJOINT}/{term.tensor}", term.adjoint)
        entry = {"output": returned[term.adjoint], "node": term.node, "operator": term.operator}
        entries.append({**entry, "parameter": term.parameter, "tensor": term.tensor})
    metadata = {f"onnxplain.{k}": v if isinstance(v, str) else json.dumps(jsonable(v)) for k, v in facts.items()}
    model = rewriter.finish({"onnxplain.biases": json.dumps(entries), **metadata})
    spell(model, rewriter.op.lacks)
    compact(model, keep_names=True)  # the metadata name tensors
    return model
