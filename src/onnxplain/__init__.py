"""Explain the answers of any ONNX model, on the onnxruntime that serves it.

>>> import onnxplain as ox
>>> e = ox.explain(ox.demo_model(), ox.demo_input(), method="fullgrad")
>>> bool(e.residual.ok)
True

Importing the package is cheap: everything is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    import onnxplain.rules as rules  # noqa: F401
    from onnxplain.engine.api import compile as compile  # noqa: A004
    from onnxplain.engine.api import explain as explain
    from onnxplain.engine.api import methods as methods
    from onnxplain.engine.catalogue import operators as operators
    from onnxplain.engine.check import CheckReport as CheckReport
    from onnxplain.engine.check import check as check
    from onnxplain.engine.demo import demo_input as demo_input
    from onnxplain.engine.errors import OnnxplainError as OnnxplainError
    from onnxplain.engine.evaluation.builds import BuildReport as BuildReport
    from onnxplain.engine.evaluation.builds import compare_builds as compare_builds
    from onnxplain.engine.evaluation.catalogue import metrics as metrics
    from onnxplain.engine.evaluation.evaluate import evaluate as evaluate
    from onnxplain.engine.evaluation.report import EvaluationReport as EvaluationReport
    from onnxplain.engine.evaluation.roar import Recipe as Recipe
    from onnxplain.engine.evaluation.roar import roar as roar
    from onnxplain.engine.evaluation.roar_report import RoarReport as RoarReport
    from onnxplain.engine.evaluation.sanity import sanity as sanity
    from onnxplain.engine.evaluation.sanity_report import SanityReport as SanityReport
    from onnxplain.engine.explainer import CompiledExplainer as CompiledExplainer
    from onnxplain.engine.explanation import Explanation as Explanation
    from onnxplain.engine.loading import Model as Model
    from onnxplain.engine.loading import load as load
    from onnxplain.engine.propagation.recipes import composite as composite
    from onnxplain.engine.targets import Target as Target
    from onnxplain.engine.targets import Targets as Targets
    from onnxplain.engine.training.trainer import Trainer as Trainer
    from onnxplain.engine.verification.report import VerifyReport as VerifyReport
    from onnxplain.engine.verify import verify as verify
    from onnxplain.engine.vjp import vjp as vjp
    from onnxplain.exporters import export as export
    from onnxplain.models import demo_model as demo_model

#: Public name -> module that has it.
_WHERE = {
    "BuildReport": "onnxplain.engine.evaluation.builds",
    "CheckReport": "onnxplain.engine.check",
    "CompiledExplainer": "onnxplain.engine.explainer",
    "EvaluationReport": "onnxplain.engine.evaluation.report",
    "Explanation": "onnxplain.engine.explanation",
    "Model": "onnxplain.engine.loading",
    "OnnxplainError": "onnxplain.engine.errors",
    "Recipe": "onnxplain.engine.evaluation.roar",
    "RoarReport": "onnxplain.engine.evaluation.roar_report",
    "SanityReport": "onnxplain.engine.evaluation.sanity_report",
    "Target": "onnxplain.engine.targets",
    "Targets": "onnxplain.engine.targets",
    "Trainer": "onnxplain.engine.training.trainer",
    "VerifyReport": "onnxplain.engine.verification.report",
    "check": "onnxplain.engine.check",
    "compare_builds": "onnxplain.engine.evaluation.builds",
    "compile": "onnxplain.engine.api",
    "composite": "onnxplain.engine.propagation.recipes",
    "demo_input": "onnxplain.engine.demo",
    "demo_model": "onnxplain.models",
    "evaluate": "onnxplain.engine.evaluation.evaluate",
    "explain": "onnxplain.engine.api",
    "export": "onnxplain.exporters",
    "load": "onnxplain.engine.loading",
    "methods": "onnxplain.engine.api",
    "metrics": "onnxplain.engine.evaluation.catalogue",
    "operators": "onnxplain.engine.catalogue",
    "roar": "onnxplain.engine.evaluation.roar",
    "sanity": "onnxplain.engine.evaluation.sanity",
    "verify": "onnxplain.engine.verify",
    "vjp": "onnxplain.engine.vjp",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    if name == "rules":  # what plug-ins are written with
        return importlib.import_module("onnxplain.rules")
    raise AttributeError(f"module 'onnxplain' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, "rules"})
