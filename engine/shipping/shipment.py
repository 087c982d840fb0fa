"""One compiled explainer as one ONNX model with the interface that the design promises.

Inputs: the model's own, and ``target`` (int64 ``[N]``, -1 for the largest element) unless it was fixed.
Outputs: the model's own, then ``attribution`` (with the tensor's name behind a slash where there are
several), ``saliency`` and ``residual`` where the method has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import jsonable
from onnxplain.engine.method import Method, Plan, Subject
from onnxplain.engine.rewrite import Rewriter, Seed
from onnxplain.engine.shipping.compact import compact
from onnxplain.engine.shipping.results import ATTRIBUTION, RESULTS, SALIENCY, want, wanted
from onnxplain.engine.shipping.spelling import spell
from onnxplain.engine.shipping.staging import STAGING, Staging


class ShippedPlan(Plan):
    """A plan whose outputs are only noted; the shipment picks those that the file returns."""

    def output(self, key: str, value: ir.Value, shape: Any = None) -> None:
        if shape is not None:
            value.shape = ir.Shape(list(shape))
        self.values[SALIENCY if key == "map" else key] = value


def ship(
    method: Method,
    rewriter: Rewriter,
    subjects: Sequence[Subject],
    seed: Seed,
    output: str | None,
    facts: Mapping[str, Any],
    staging: Staging | None = None,
    results: Sequence[str] | None = None,
) -> ir.Model:
    """Let the method add itself to the graph, and finish it.

    Args:
        method: The configured method.
        rewriter: Over a fresh copy of the model.
        subjects: What is attributed to; inner tensors are not cut.
        seed: The explained scalar.
        output: Name of the explained output.
        facts: What the file says about itself beside the method and its options.
        staging: How points of paths and noisy copies are evaluated; as the memory allows by default.
        results: What of attribution, saliency and residual the file returns; all that the method has by default.

    Raises:
        OptionError: The method cannot be shipped, or has not got what is asked for.
    """
    plan = ShippedPlan(rewriter, seed, list(subjects), output_name=output)
    plan.memo[STAGING] = staging if staging is not None else Staging()
    want(plan, results)
    method.ship(plan)
    found = {k.partition("/")[2]: v for k, v in plan.values.items() if k.startswith(f"{ATTRIBUTION}/")}
    if not found:
        raise OptionError(f"method '{method.name}' makes no attribution inside the graph; see 'onnxplain methods'")
    for name in RESULTS:
        values = found if name == ATTRIBUTION else {name: plan.values[name]} if name in plan.values else {}
        if results is not None and wanted(plan, name) and not values:
            raise OptionError(f"method '{method.name}' has no {name}; leave it out of results")
        for key, value in values.items() if wanted(plan, name) else ():
            rewriter.add_output(f"{name}/{key}" if len(values) > 1 else name, value)
    metadata = {
        "onnxplain.method": method.name,
        "onnxplain.options": json.dumps(jsonable(method.options())),
        "onnxplain.attributed": json.dumps(list(found)),
        **{f"onnxplain.{k}": v if isinstance(v, str) else json.dumps(jsonable(v)) for k, v in facts.items()},
    }
    model = rewriter.finish(metadata)
    spell(model, rewriter.op.lacks)
    compact(model)
    return model
