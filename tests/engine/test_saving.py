"""Results come back from a file as they went in; a file is complete or not there."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import fullgrad_net, model, node, simple_model

import onnxplain as ox
from onnxplain.engine import saving
from onnxplain.engine.errors import InputError, OutputError

SUFFIXES = [".npz", ".safetensors"] if importlib.util.find_spec("safetensors") else [".npz"]


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def results() -> dict[str, ox.Explanation]:
    proto, x = fullgrad_net()
    batch = np.concatenate([x, -x])
    flat = np.array([[5.0, 3.0], [1.0, 3.0]], np.float32)
    return {
        "fullgrad": ox.explain(proto, batch, method="fullgrad", term_maps=True),
        "integrated_gradients": ox.explain(
            simple_model(), flat, method="integrated_gradients", baseline=np.ones((2, 2))
        ),
        "weights": ox.explain(simple_model(), flat, method="gradient", target=ox.Target.weights([1.0, -1.0])),
        "two_inputs": ox.explain(
            model([node("Mul", "a b", "y")], {"a": ["N", 2], "b": ["N", 2]}, {"y": ["N", 2]}),
            {"a": flat, "b": flat + 1},
            method="fullgrad",
        ),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, ox.Explanation]:
    return results()


def assert_equal(found: ox.Explanation, wanted: ox.Explanation) -> None:
    for name in ("attributions", "outputs"):
        assert list(getattr(found, name)) == list(getattr(wanted, name))
        for key, array in getattr(wanted, name).items():
            np.testing.assert_array_equal(getattr(found, name)[key], array, strict=True)
    for name in ("saliency", "score", "target", "baseline_score"):
        if getattr(wanted, name) is None:
            assert getattr(found, name) is None
        else:
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), strict=True)
    plain = (
        "target_shape",
        "head",
        "head_note",
        "output",
        "method",
        "seed",
        "quantisation",
        "blocked",
        "notes",
        "signed",
    )
    for name in plain:
        assert getattr(found, name) == getattr(wanted, name), name
    for a, b in ((found.residual, wanted.residual), (found.terms, wanted.terms)):
        assert (a is None) == (b is None)
    if wanted.residual is not None and found.residual is not None:
        np.testing.assert_array_equal(found.residual.absolute, wanted.residual.absolute, strict=True)
        np.testing.assert_array_equal(found.residual.relative, wanted.residual.relative, strict=True)
        assert (found.residual.of, found.residual.tolerance) == (wanted.residual.of, wanted.residual.tolerance)
    if wanted.terms is not None and found.terms is not None:
        assert found.terms.info == wanted.terms.info
        np.testing.assert_array_equal(found.terms.biases, wanted.terms.biases, strict=True)
        assert set(found.terms.maps) == set(wanted.terms.maps)
        for i, array in wanted.terms.maps.items():
            np.testing.assert_array_equal(found.terms.maps[i], array, strict=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["fullgrad", "integrated_gradients", "weights", "two_inputs"])
def test_round_trip(kind: str, suffix: str, made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    path = tmp_path / f"e{suffix}"
    assert made[kind].save(path) == path
    found = ox.Explanation.load(path)
    assert_equal(found, made[kind])
    assert found.provenance == json.loads(json.dumps(made[kind].provenance))
    assert found.summary() == json.loads(json.dumps(made[kind].summary()))
    assert left_in(tmp_path) == [path.name], "nothing else is left in the folder"


def test_options_come_back_as_plain_data(made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    made["integrated_gradients"].save(tmp_path / "e.npz")
    found = ox.Explanation.load(tmp_path / "e.npz")
    assert found.options["baseline"] == [[1.0, 1.0], [1.0, 1.0]]
    assert found.options["steps"] == 50


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    """No time stamp and no order that changes: files can be compared and cached by their hash."""
    proto, x = fullgrad_net()
    for name in ("a", "b"):
        ox.explain(proto, x, method="fullgrad").save(tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_json_holds_the_figures_of_every_sample(made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    made["fullgrad"].save(tmp_path / "e.json")
    document = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert document["method"] == "fullgrad"
    assert document["options"]["rescale"] == "minmax"
    assert len(document["samples"]) == 2
    assert document["samples"][1] == json.loads(json.dumps(made["fullgrad"].summary(1)))
    assert document["provenance"]["model_sha256"]


def test_json_has_no_values_outside_the_standard(made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    """NaN and Infinity are no JSON; a figure that is not finite is written as null."""
    e = made["fullgrad"]
    assert e.residual is not None
    broken = replace(e, residual=replace(e.residual, relative=np.array([np.nan, np.inf])))
    broken.save(tmp_path / "e.json")

    def refuse(text: str) -> Any:
        raise AssertionError(f"{text} is no JSON")

    document = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert document["samples"][0]["residual"]["relative"] is None


def test_png_is_the_map(made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    made["fullgrad"].save(tmp_path / "e.png")
    picture = cv2.imread(str(tmp_path / "e.png"))
    assert picture is not None
    assert picture.shape[0] == picture.shape[1]
    assert picture.std() > 1
    assert made["fullgrad"]._repr_png_() == (tmp_path / "e.png").read_bytes()


def test_what_is_no_picture(made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no picture"):
        made["weights"].save(tmp_path / "e.png")
    assert made["weights"]._repr_png_() is None
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npz", ".json", ".png"])
def test_missing_folder(suffix: str, made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        made["fullgrad"].save(tmp_path / "none" / f"e{suffix}")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", ["e", "e.txt", "e.npy"])
def test_unknown_form(name: str, made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"use \.npz, \.safetensors, \.json or \.png"):
        made["fullgrad"].save(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(
    made: dict[str, ox.Explanation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.npz"
    made["weights"].save(path)
    before = path.read_bytes()

    def full(self: Path, target: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        made["fullgrad"].save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert left_in(tmp_path) == ["e.npz"]


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"PK\x03\x04 damaged", b"\x93NUMPY\x01\x00", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"],
    ids=["empty", "text", "zip", "npy", "short"],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_file(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"e{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no stored explanation"):
        ox.Explanation.load(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stored explanation"):
        ox.Explanation.load(tmp_path / "none.npz")
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    with pytest.raises(InputError, match="no stored explanation"):
        ox.Explanation.load(tmp_path / "foreign.npz")
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(InputError, match="no stored explanation"):
        ox.Explanation.load(tmp_path / "array.npy")


def test_newer_form_is_refused(
    made: dict[str, ox.Explanation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "FORMAT", saving.FORMAT + 1)
    made["weights"].save(tmp_path / "e.npz")
    monkeypatch.undo()
    with pytest.raises(InputError, match="newer version"):
        ox.Explanation.load(tmp_path / "e.npz")


@pytest.mark.skipif(len(SUFFIXES) == 2, reason="safetensors is installed")
def test_safetensors_is_asked_for_when_it_is_missing(made: dict[str, ox.Explanation], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="pip install safetensors"):
        made["weights"].save(tmp_path / "e.safetensors")


# ----- models -----------------------------------------------------------------------------------------


def test_saved_model_gives_the_same_numbers_without_this_package(tmp_path: Path) -> None:
    proto, x = fullgrad_net()
    compiled = ox.compile(proto, method="fullgrad")
    e = compiled(x, target=1)
    path = compiled.save(tmp_path / "explainer.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    run = dict(zip(names, session.run(None, {"x": x, "target": np.array([1])}), strict=True))
    np.testing.assert_array_equal(run["attribution"], e.attributions["x"])
    np.testing.assert_array_equal(run["logits"], e.outputs["logits"])
    assert e.residual is not None
    np.testing.assert_allclose(run["residual"], e.residual.absolute, atol=1e-6)


def test_model_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        ox.compile(fullgrad_net()[0]).save(tmp_path / "none" / "m.onnx")
