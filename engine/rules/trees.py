"""Operators of ai.onnx.ml that are constant in pieces: trees, encoders, thresholds. Their derivative is zero.

Nothing of what a tree looks at reaches a gradient, so this is always told.
"""

from __future__ import annotations

from onnxplain.engine.rules.table import no_gradient

ML = "ai.onnx.ml"

no_gradient(
    *("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
    domain=ML,
    reported=True,
    remedy="the answer of a tree changes in steps; shapley_sampling, kernel_shap and occlusion see them",
)
no_gradient(
    "Binarizer",
    domain=ML,
    reported=True,
    remedy="a threshold changes in steps; explain what enters it, or use shapley_sampling or occlusion",
)
no_gradient(
    *("CategoryMapper", "LabelEncoder", "OneHotEncoder"),
    domain=ML,
    reported=True,
    remedy="a category has no derivative; explain what follows it, or use shapley_sampling or occlusion",
)
