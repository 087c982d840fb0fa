"""``onnxplain compare``: one page of all methods, and what is left out is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call, refused, saved, series_model, table_model, two_inputs

from onnxplain.engine.render.png import read_text


def test_all_methods_that_suit_a_series(tmp_path: Path) -> None:
    model = saved(series_model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1, 2, 16)).astype(np.float32))
    page = tmp_path / "all.png"
    result = call("compare", model, tmp_path / "x.npy", "-o", page, "-x", "rise", "--quick", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    names = [entry["method"] for entry in document["methods"]]
    assert {"gradient", "fullgrad", "integrated_gradients", "gradcam", "occlusion"} <= set(names)
    assert "rise" not in names
    drawn = json.loads(read_text(page.read_bytes())["onnxplain"])
    assert [entry["method"] for entry in drawn] == names


def test_what_does_not_suit_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """A linear table has no ReLU for Guided Backpropagation and no feature map for Grad-CAM."""
    model = saved(table_model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    only = ["-x" if i % 2 == 0 else name for name in ("lime", "kernel_shap", "rise") for i in range(2)]
    result = call("compare", model, tmp_path / "x.npy", "-o", tmp_path / "all.json", *only, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    names = {entry["method"] for entry in document["methods"]}
    notes = "\n".join(document["notes"])
    for name in ("guided_backprop", "gradcam"):
        assert name not in names
        assert f"{name} is left out: " in notes


def test_a_named_method_that_does_not_suit_is_refused(tmp_path: Path) -> None:
    model = saved(table_model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    assert "feature maps" in refused("compare", model, tmp_path / "x.npy", "-m", "gradcam", "-o", tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [(["-x", "gradcan"], "gradcan"), (["-m", "gradient", "-x", "gradient"], "no method is left")],
)
def test_bad_requests(tmp_path: Path, given: list[str], words: str) -> None:
    model = saved(table_model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    assert words in refused("compare", model, tmp_path / "x.npy", *given)


def test_a_quick_look_takes_fewer_draws_unless_told(tmp_path: Path) -> None:
    model = saved(table_model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    named = ["-m", "rise", "-m", "smoothgrad", "-m", "gradient"]
    result = call(
        "compare", model, tmp_path / "x.npy", *named, "--quick", "-O", "smoothgrad.draws=7", "-o", tmp_path / "a.json",
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = {entry["method"]: entry["options"] for entry in json.loads(result.stdout)["methods"]}
    assert found["rise"]["draws"] == 300
    assert found["smoothgrad"]["draws"] == 7
    assert found["gradient"] == {"composite": None, "reduction": "sum_abs"}


def test_two_inputs_have_no_default_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused where a picture is asked for, not where none is."""
    monkeypatch.chdir(tmp_path)
    request = ["compare", saved(two_inputs(), tmp_path / "net.onnx"), tmp_path / "x.npz", "-m", "gradient"]
    np.savez(tmp_path / "x.npz", first=np.ones((1, 3), np.float32), second=np.ones((1, 3), np.float32))
    result = call(*request, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["written"] == []
    assert "no picture" in refused(*request, "-o", "c.png")
    assert not list(tmp_path.glob("*.png"))
