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
from onnxplain.engine.shipping.spelling import spell
from onnxplain.engine.shipping.staging import STAGING, Staging

#: What a method's keys are called in the file.
ATTRIBUTION, SALIENCY, RESIDUAL = "attribution", "saliency", "residual"


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

    Raises:
        OptionError: The method cannot be shipped.
    """
    plan = ShippedPlan(rewriter, seed, list(subjects), output_name=output)
    plan.memo[STAGING] = staging if staging is not None else Staging()
    method.ship(plan)
    found = {k.partition("/")[2]: v for k, v in plan.values.items() if k.startswith(f"{ATTRIBUTION}/")}
    if not found:
        raise OptionError(f"method '{method.name}' makes no attribution inside the graph; see 'onnxplain methods'")
    for name, value in found.items():
        rewriter.add_output(ATTRIBUTION if len(found) == 1 else f"{ATTRIBUTION}/{name}", value)
    for key in (SALIENCY, RESIDUAL):
        if key in plan.values:
            rewriter.add_output(key, plan.values[key])
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
