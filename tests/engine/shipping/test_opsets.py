"""Files at a newer opset: the same numbers, the right stamps, and refusals that say why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.shipping.opsets import NEWEST_OPSET


@pytest.mark.parametrize("method", ["fullgrad", "integrated_gradients"])
@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_the_same_numbers_at_every_opset(opset: int, method: str, tmp_path: Path) -> None:
    proto, x = fullgrad_net()
    explainer = ox.compile(proto, method=method, threads=1)
    path = explainer.save(tmp_path / "e.onnx", opset=opset, target=1)
    onnx.checker.check_model(str(path), full_check=True)
    saved = onnx.load(path)
    assert [(o.domain, o.version) for o in saved.opset_import] == [("", opset)]
    assert saved.ir_version == max(8, onnx.helper.find_min_ir_version_for(saved.opset_import))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["attribution"], {"x": x})[0]
    np.testing.assert_allclose(found, explainer(x, target=1).attributions["x"], rtol=1e-5, atol=1e-6)


def test_what_is_refused() -> None:
    proto, _ = fullgrad_net()
    explainer = ox.compile(proto, method="gradient", threads=1)
    with pytest.raises(OptionError, match=r"opset 17 is not possible: the graph is written at opset 18"):
        explainer.ship(opset=17)
    with pytest.raises(OptionError, match=r"onnxruntime 1\.19\.2\) loads no file above opset 21"):
        explainer.ship(opset=22)
    with pytest.raises(OptionError, match=r"not possible for tensorrt, which reads files up to opset 20"):
        explainer.ship(opset=21, profile="tensorrt")
    pool = node("AveragePool", "x", "y", kernel_shape=[2], strides=[2], ceil_mode=1)
    changed = model([pool], {"x": ["N", 1, 5]}, {"y": ["N", 1, 3]})
    with pytest.raises(OptionError, match=r"opset 19 is not possible: y_node.* means something else there"):
        ox.compile(changed, method="gradient", threads=1).ship(opset=19)


@pytest.mark.skipif(
    "ONNXPLAIN_ORT_OLDEST" not in os.environ,
    reason="needs the oldest runtime (pip install --target FOLDER onnxruntime==1.19.2) and ONNXPLAIN_ORT_OLDEST=FOLDER",
)
def test_the_oldest_runtime_loads_the_newest_and_nothing_newer(tmp_path: Path) -> None:
    proto, _ = fullgrad_net()
    path = ox.compile(proto, method="fullgrad", threads=1).save(tmp_path / "e.onnx", opset=NEWEST_OPSET)
    newer = onnx.load(path)
    newer.opset_import[0].version = NEWEST_OPSET + 1
    onnx.save(newer, tmp_path / "newer.onnx")
    code = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    environment = {**os.environ, "PYTHONPATH": os.environ["ONNXPLAIN_ORT_OLDEST"]}
    loads = {
        name: subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)], env=environment, cwd=tmp_path, capture_output=True
        ).returncode
        for name in ("e.onnx", "newer.onnx")
    }
    assert loads["e.onnx"] == 0
    assert loads["newer.onnx"] != 0
