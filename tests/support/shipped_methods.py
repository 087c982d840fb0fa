"""How each method is shown as a file: networks, options, and how near it has to be to the call.

A method that is not named is written with the options of a first look (`quick`) for the smooth network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from smooth_models import smooth_picture_net
from tiny_transformers import vision_transformer

Array = np.ndarray[Any, Any]

BACKGROUND = np.random.default_rng(0).normal(size=(4, 2, 12, 10)).astype(np.float32)
TARGETS = [2, 0, 2]  # class activation maps of class 2 have positive places on the small networks
STEPS: dict[str, Any] = {"steps": 6, "tolerance": None}

#: Options per method; one that is not named is written with those of a first look (`quick`). The method has to be
#: shown as it is used: with more than its defaults where they leave ways untrodden.
CASES: dict[str, list[dict[str, Any]]] = {
    "blur_ig": [{"steps": 6, "sigma": 3.0}, {"steps": 6, "square_root": True}],
    "deepshap": [{}, {"background": BACKGROUND}, {"background": ["blur", "mean"]}],
    "deeplift": [{}, {"rule": "reveal_cancel", "baseline": "blur"}],
    "expected_gradients": [{"draws": 6, "background": b} for b in (BACKGROUND, "noise", ["zero", "blur"])],
    "gradient_shap": [{"draws": 6, "background": b} for b in (BACKGROUND, "uniform", "noise:2")],
    "guided_ig": [{"steps": 8}, {"steps": 5, "fraction": 0.1, "max_dist": 0.3, "baseline": ["mean", "zero"]}],
    "idgi": [{"steps": 5}, {"steps": 5, "path": "guided"}, {"steps": 5, "path": "blur", "sigma": 3.0}],
    "integrated_gradients": [STEPS, {**STEPS, "baseline": "noise:2"}, {**STEPS, "baseline": ["blur", 0.3]}],
    "internal_influence": [{"steps": 5}, {"steps": 5, "layer": "a1", "quadrature": "trapezoid"}],
    "kernel_shap": [{"draws": 160}, {"players": "grid:3", "baseline": ["zero", "mean"]}],
    "layer_conductance": [STEPS, {**STEPS, "layer": "a1", "reduction": "l2"}, {**STEPS, "layer": "f"}],
    "lime": [{"players": "grid:3", "draws": 30}],
    "neuron_conductance": [STEPS, {**STEPS, "neuron": 3}, {**STEPS, "layer": "a1", "neuron": [-1, 2], "baseline": 0.2}],
    "occlusion": [{}, {"window": [5, 3], "stride": 4, "average": False, "value": "mean"}, {"window": 4, "per_channel": True}],
    "rise": [{"draws": 12}, {"draws": 12, "cells": 3, "keep": 0.5, "baseline": "mean"}],
    "score_cam": [{}, {"channels": 3}, {"layer": "a1", "weights": "increase", "align_corners": True, "relu": False}],
    "shapley_sampling": [{"permutations": 2}, {"permutations": 2, "antithetic": True, "players": "patches:5"}],
    "smooth_fullgrad": [{"draws": 3}, {"draws": 3, "sign": "signed", "rescale": "max", "scope": "channel"}],
    "smoothed": [
        {"draws": 3, "kind": "variance"},
        {"draws": 3, "around": "integrated_gradients", "inner": STEPS},
        {"draws": 3, "around": "fullgrad"},
        {"draws": 3, "around": "gradcam", "kind": "square"},
        {"draws": 2, "around": "guided_ig", "inner": {"steps": 4}},
        {"draws": 2, "around": "smoothgrad", "inner": {"draws": 3}},
        {"draws": 2, "around": "expected_gradients", "inner": {"draws": 3}},
        {"draws": 2, "around": "rise", "inner": {"draws": 5}},
        {"draws": 2, "around": "score_cam"},
    ],
}  # fmt: skip

#: Methods for networks of another kind than the smooth one.
NETWORKS = {
    "deconvnet": "Relu",
    "guided_backprop": "Relu",
    "guided_gradcam": "Relu",
    "rectgrad": "Relu",
    "attention_gradient": "attention",
    "attention_rollout": "attention",
}

#: Of the largest element, between a file and the call: what is promised. Both add up thousands of float32 numbers, the
#: call in float64 and the file in float32.
TOLERANCE = 1e-5

#: Where it is more, with the reason.
TOLERANCES = {
    "occlusion": (3e-5, "small differences of scores, which both have rounded to float32"),
    "kernel_shap": (3e-5, "as occlusion"),
    "shapley_sampling": (3e-5, "as occlusion"),
}


def tolerance_of(method: str) -> float:
    """How near the file has to be to the call."""
    return TOLERANCES.get(method, (TOLERANCE, ""))[0]


def network(method: str) -> tuple[onnx.ModelProto, Array]:
    kind = NETWORKS.get(method, "Tanh")
    if kind != "attention":
        return smooth_picture_net(kind)
    proto, x = vision_transformer()
    return proto, np.concatenate([x, x * 0.5, -x])[:3].astype(np.float32)
