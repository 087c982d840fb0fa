"""The demo page in a browser: a picture goes in, and what the page says is what Python says."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import FOLDER, browser, call_node, installed

import onnxplain as ox
from onnxplain.models import demo_labels, demo_model, demo_samples

EXAMPLE = FOLDER.parents[1] / "examples" / "web"


@pytest.mark.slow
@pytest.mark.skipif(not installed("playwright-core"), reason="needs the npm packages: npm ci in tests/foreign")
@pytest.mark.skipif(browser() is None, reason="needs a Chromium; name it in CHROMIUM")
def test_a_picture_is_explained_in_the_page(tmp_path: Path) -> None:
    site = tmp_path / "site"
    runtime = FOLDER / "node_modules" / "onnxruntime-web"
    build = [sys.executable, str(EXAMPLE / "build.py"), "--runtime", str(runtime), "--out", str(site)]
    subprocess.run(build, check=True, capture_output=True)
    sample = next(s for s in demo_samples() if s.class_name == "Ankle boot")
    target = demo_labels().index("Sneaker")
    pictures = {name: str(tmp_path / f"{name}.png") for name in ("wide", "phone", "dark")}
    job = {"picture": str(sample.path), "target": target, "answer": str(tmp_path / "answer.json"), "pictures": pictures}
    (tmp_path / "job.json").write_text(json.dumps(job))
    call_node("demo_page.cjs", browser(), site, tmp_path / "job.json")
    answer = json.loads((tmp_path / "answer.json").read_text())

    assert answer["errors"] == []
    assert {r["method"] for r in answer["requests"]} == {"GET"}, "no picture leaves the page"
    assert all(re.match(r"(http://127\.0\.0\.1|blob:|data:)", r["url"]) for r in answer["requests"])
    index = [s.class_index for s in demo_samples()].index(sample.class_index)
    x = ox.demo_input()[index : index + 1]
    _agrees(answer["first"], x, None)
    _agrees(answer["second"], x, target)
    assert answer["first"]["prediction"].startswith("Ankle boot, ")
    assert "class Sneaker" in answer["second"]["label"]
    assert answer["third"]["prediction"].startswith(demo_samples()[0].class_name)
    assert "cannot be shown" in answer["last"]
    assert answer["faults"] == {"unnamed": [], "wider": 0}, "every control has a name, and a phone shows all of it"
    for path in pictures.values():
        assert Path(path).stat().st_size > 10_000


def _agrees(seen: dict[str, Any], x: Any, target: int | None) -> None:
    """Prediction, scores and map of the page against the Python call."""
    e = ox.explain(demo_model(), x, method="fullgrad", target=target, threads=1)
    logits = e.outputs["logits"][0].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = int(logits.argmax())
    assert seen["prediction"] == f"{demo_labels()[best]}, {100 * shares[best]:.1f} %"
    order = np.argsort(-shares)[:5]
    assert [row.split("\t")[0] for row in seen["rows"]] == [demo_labels()[i] for i in order]
    np.testing.assert_allclose(seen["result"]["logits"], logits, rtol=1e-5, atol=1e-5)
    assert e.saliency is not None
    # The picture's black background has ties at max-pooling, which the last bit of a sum decides.
    gap = np.abs(np.reshape(seen["result"]["saliency"], (28, 28)) - e.saliency[0]) / e.saliency.max()
    assert (gap > 1e-5).mean() < 0.1
    assert gap.max() < 5e-3
    assert f"the score {logits[seen['result']['target']]:.3f} is the sum" in seen["proof"]
    assert abs(seen["result"]["residual"]) < 1e-4


def test_the_script_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["build.py", "--runtime", str(tmp_path), "--out", str(tmp_path / "site")])
    with pytest.raises(SystemExit, match=r"lacks dist/ort\.wasm\.min\.mjs; give the folder of the npm package"):
        runpy.run_path(str(EXAMPLE / "build.py"), run_name="__main__")
    assert not (tmp_path / "site").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_pages_script_is_sound() -> None:
    subprocess.run(["node", "--check", str(EXAMPLE / "app.js")], check=True, capture_output=True)
