"""silero-vad, a recurrent network that is deployed in six exports: LSTM in nested If, in Gemm form, as a sequence.

The files are not in the repository: point ``ONNXPLAIN_SILERO`` at the folder ``silero_vad/data`` of silero-vad 6.2.3,
or ``ONNXPLAIN_MODELS`` at a folder under which it is unpacked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_models import locate

import onnxplain as ox

FOLDER = os.environ.get("ONNXPLAIN_SILERO") or getattr(locate("silero_vad/data/silero_vad.onnx"), "parent", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="set ONNXPLAIN_SILERO to the folder with silero-vad's onnx files")

#: Five exports of one network. `silero_vad_half` has weights of its own: the runtime's own answer differs as well.
SAME = [
    "silero_vad",
    "silero_vad_16k_op15",
    "silero_vad_16k_sequence",
    "silero_vad_op18_ifless",
    "silero_vad_openvino_16k",
]


def explained(name: str, method: str) -> ox.Explanation:
    rng = np.random.default_rng(0)
    x = (0.1 * rng.normal(size=(1, 576))).astype(np.float32)
    state = (0.1 * rng.normal(size=(2, 1, 128))).astype(np.float32)
    feeds: dict[str, Any] = {"input": x, "state": state, "sr": np.asarray(16000, np.int64)}
    model = ox.load(Path(FOLDER) / f"{name}.onnx")
    if "sequence" in name:
        feeds = {"input": x, "h": state[:1], "c": state[1:]}
    fed = {t.name: feeds[t.name] for t in model.inputs}
    # The others end in a mean over one Sigmoid, in front of which nothing is explained.
    return ox.explain(model, fed, method=method, wrt=["input"], head="probability" if "sequence" in name else None)


@pytest.mark.parametrize("method", ["gradient", "fullgrad"])
def test_five_exports_of_one_network_give_the_same_attributions(method: str) -> None:
    results = [explained(name, method) for name in SAME]
    first = results[0].attributions["input"]
    for other in results[1:]:
        # One export holds its weights in another order, so float32 sums differ in the last digits.
        np.testing.assert_allclose(other.attributions["input"], first, atol=2e-5 * np.abs(first).max())


@pytest.mark.parametrize("name", [*SAME, "silero_vad_half"])
def test_full_gradient_is_complete(name: str) -> None:
    residual = explained(name, "fullgrad").residual
    assert residual is not None
    assert residual.relative.max() <= 1e-5


def test_the_half_variant_is_another_network() -> None:
    """Its weights differ, its answers without this package as well, and so must its attributions."""
    same, half = explained("silero_vad_16k_op15", "gradient"), explained("silero_vad_half", "gradient")
    assert abs(float(same.score[0] - half.score[0])) > 0.01
    a, b = (e.attributions["input"].astype(float).ravel() for e in (same, half))
    assert abs(a @ b) < 0.9 * np.linalg.norm(a) * np.linalg.norm(b)
