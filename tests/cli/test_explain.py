"""`onnxplain explain`: figures against onnxruntime and NumPy, files by what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from command_line import (
    WEIGHTS,
    array,
    call,
    listing,
    open_model,
    picture,
    picture_model,
    refused,
    saved,
    series_model,
    table_model,
    token_model,
    two_inputs,
)
from tiny_models import forest

from onnxplain.engine.explanation import Explanation
from onnxplain.engine.render.png import read_text
from onnxplain.models import demo_labels, demo_model, demo_samples

DEMO = demo_model()
BAG = next(sample for sample in demo_samples() if sample.class_name == "Bag")


def document(*arguments: object) -> Any:
    """What ``explain --json`` prints, which must be one document."""
    result = call("explain", *arguments, "--json", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def size_of(png: Path) -> tuple[int, int]:
    """Height and width, from the header (PNG specification, 11.2.2)."""
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


# ----- what is printed ----------------------------------------------------------------------------


def test_prints_target_score_residual_and_terms() -> None:
    result = call("explain", DEMO, BAG.path, "--threads", 1)
    assert result.exit_code == 0
    assert "8 Bag" in result.stdout
    assert "ok" in result.stdout
    for word in ("logit", "residual", "fullgrad", "explicit", "implicit", "unattributed"):
        assert word in result.stdout
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_probabilities_of_trees_are_not_called_logits(tmp_path: Path) -> None:
    """What a tree ensemble answers is printed under the output's name, and as what it is in JSON."""
    path, x = saved(forest(), tmp_path / "forest.onnx"), array(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    printed = call("explain", path, x, "--method", "occlusion").stdout
    assert "forest.onnx: output of 'probabilities'" in printed
    assert "score   0.8 (output)" in printed
    assert "logit" not in printed
    (told,) = document(path, x, "--method", "occlusion")["methods"]
    assert told["head"] == "output"


def test_score_is_the_models_own_and_the_terms_add_up_to_it() -> None:
    import cv2

    pixels = cv2.imread(str(BAG.path), cv2.IMREAD_GRAYSCALE)
    session = ort.InferenceSession(str(DEMO), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": pixels[None, None].astype(np.float32) / 255})
    sample = document(DEMO, BAG.path)["methods"][0]["samples"][0]
    # float32 sums in another order
    assert sample["score"] == pytest.approx(float(logits.max()), rel=1e-5)
    assert (sample["target"], sample["label"]) == (8, "Bag")
    terms = sample["terms"]
    assert terms["input"] + terms["explicit"] + terms["implicit"] == pytest.approx(sample["score"], rel=1e-4)
    assert sample["residual"]["ok"]


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    result = call("explain", DEMO, BAG.path, "-q", "-o", tmp_path / "x.npz", "--threads", 1)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "x.npz").is_file()


def test_several_methods_and_their_options() -> None:
    found = document(DEMO, BAG.path, "-m", "gradient", "-m", "integrated_gradients", "-O", "steps=7", "-O",
                     "gradient.reduction=max_abs", "-O", "tolerance=none")  # fmt: skip
    options = {entry["method"]: entry["options"] for entry in found["methods"]}
    assert options["gradient"] == {"composite": None, "reduction": "max_abs"}
    assert options["integrated_gradients"]["steps"] == 7
    assert options["integrated_gradients"]["tolerance"] is None
    assert options["integrated_gradients"]["reduction"] == "sum"


def test_head_and_output(tmp_path: Path) -> None:
    x = array(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    found = document(saved(table_model(), tmp_path / "m.onnx"), x, "--head", "probability", "-m", "gradient")
    assert found["methods"][0]["head"] == "probability"
    assert found["methods"][0]["samples"][0]["score"] == pytest.approx(1 / 3)


def test_strict_reports_what_was_found_and_writes_nothing(tmp_path: Path) -> None:
    result = call("explain", DEMO, BAG.path, "-m", "integrated_gradients", "-O", "steps=2", "-O", "max_steps=2", "-O",
                  "tolerance=1e-9", "--strict", "-o", tmp_path / "x.png", "--threads", 1)  # fmt: skip
    assert result.exit_code == 1
    assert "NOT OK" in result.stdout
    assert result.stderr.startswith("error: integrated_gradients on bag.png")
    assert listing(tmp_path) == {}


def test_strict_passes_what_proves_itself() -> None:
    assert call("explain", DEMO, BAG.path, "--strict", "-q", "--threads", 1).exit_code == 0


# ----- targets and labels -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3), ("-1", 9), ("coat", 4), ("Ankle boot", 9), ("argmax", 8)],
)
def test_target(text: str, expected: int) -> None:
    sample = document(DEMO, BAG.path, "--target", text, "-m", "gradient")["methods"][0]["samples"][0]
    assert sample["target"] == expected
    assert sample["label"] == demo_labels()[expected]


def test_one_target_per_sample() -> None:
    samples = demo_samples()[:3]
    found = document(DEMO, *(s.path for s in samples), "-t", "7,bag,0", "-m", "gradient")["methods"][0]["samples"]
    assert [entry["target"] for entry in found] == [7, 8, 0]
    line = refused("explain", DEMO, *(s.path for s in samples), "-t", "7,8")
    assert "2 targets for 3 samples" in line


def test_labels_from_a_file_and_labels_that_do_not_fit(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"n{k}" for k in range(10)))
    assert document(DEMO, BAG.path, "--labels", names)["methods"][0]["samples"][0]["label"] == "n8"
    names.write_text("one\ntwo")
    assert "2 labels for 10 classes" in refused("explain", DEMO, BAG.path, "--labels", names)


# ----- inputs -------------------------------------------------------------------------------------


def test_a_folder_of_pictures_in_order() -> None:
    found = document(DEMO, BAG.path.parent, "-m", "gradient")["methods"][0]["samples"]
    names = [entry["name"] for entry in found]
    assert names == sorted(names)
    assert {entry["name"]: entry["label"] for entry in found} == {s.path.name: s.class_name for s in demo_samples()}


def test_rows_and_key_of_an_npz(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", features=x, answers=np.arange(6))
    model = saved(table_model(), tmp_path / "m.onnx")
    assert "name the one to take with --key" in refused("explain", model, tmp_path / "data.npz")
    found = document(model, tmp_path / "data.npz", "--key", "features", "--rows", "1:4", "-m", "gradient")
    expected = (x @ WEIGHTS)[1:4]
    samples = found["methods"][0]["samples"]
    assert [entry["name"] for entry in samples] == ["data.npz[1]", "data.npz[2]", "data.npz[3]"]
    assert [entry["target"] for entry in samples] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose([entry["score"] for entry in samples], expected.max(axis=1), rtol=1e-5)


def test_two_inputs_by_name(tmp_path: Path) -> None:
    model = saved(two_inputs(), tmp_path / "m.onnx")
    np.savez(tmp_path / "both.npz", first=np.ones((2, 3), np.float32), second=np.full((2, 3), 2, np.float32))
    found = document(model, tmp_path / "both.npz", "-m", "gradient", "-t", "1")
    assert [entry["score"] for entry in found["methods"][0]["samples"]] == [3.0, 3.0]


def test_one_sample_without_a_batch_axis(tmp_path: Path) -> None:
    model = saved(table_model(), tmp_path / "m.onnx")
    found = document(model, array(tmp_path / "x.npy", np.ones(4, np.float32)), "-t", "2", "-m", "gradient")
    assert found["methods"][0]["samples"][0]["score"] == pytest.approx(float(WEIGHTS[:, 2].sum()), rel=1e-5)


@pytest.mark.parametrize("how", ["option", "knobs", "beside", "metadata"])
def test_preprocessing_is_taken_from_where_it_is_declared(how: str, tmp_path: Path) -> None:
    scaled = '{"scale": "1/255"}'
    model = saved(picture_model(preprocess=scaled) if how == "metadata" else picture_model(), tmp_path / "m.onnx")
    card = tmp_path / ("m.toml" if how == "beside" else "own.toml")
    if how in ("option", "beside"):
        card.write_text('[preprocess]\nscale = "1/255"\n')
    more = {"option": ["-p", card], "knobs": ["--scale", "1/255"]}.get(how, [])
    found = document(model, picture(tmp_path / "p.png"), *more, "-t", "1")
    assert found["preprocessing"]["scale"] == pytest.approx(1 / 255)
    import cv2

    pixels = cv2.imread(str(tmp_path / "p.png"))[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    (expected,) = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"x": pixels})
    assert found["methods"][0]["samples"][0]["score"] == pytest.approx(float(expected[0, 1]), rel=1e-4)


def test_an_option_stands_above_the_metadata(tmp_path: Path) -> None:
    model = saved(picture_model(preprocess='{"scale": "1/255"}'), tmp_path / "m.onnx")
    found = document(model, picture(tmp_path / "p.png"), "--mean", "0.5,0.4,0.3")
    assert found["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert found["preprocessing"]["scale"] == pytest.approx(1 / 255)


# ----- files --------------------------------------------------------------------------------------


def test_raw_results_hold_the_gradient(tmp_path: Path) -> None:
    model = saved(table_model(), tmp_path / "m.onnx")
    x = array(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    result = call("explain", model, x, "-m", "gradient", "-t", "0,2", "-o", tmp_path / "r.npz", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    stored = Explanation.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(stored.attributions["x"], WEIGHTS[:, [0, 2]].T)


def test_several_outputs_at_once_and_one_raw_file_per_method(tmp_path: Path) -> None:
    outs = [part for name in ("r.npz", "r.json", "r.png", "folder") for part in ("-o", tmp_path / name)]
    pictures = [BAG.path, demo_samples()[0].path]
    result = call("explain", DEMO, *pictures, "-m", "gradient", "-m", "fullgrad", "--threads", 1, *outs)
    assert result.exit_code == 0, result.stderr
    assert set(listing(tmp_path)) == {
        "r.gradient.npz", "r.fullgrad.npz", "r.json", "r.png",
        "folder/bag.png", "folder/t-shirt-top.png", "folder/results.json",
    }  # fmt: skip
    for name in listing(tmp_path):
        assert f"wrote {tmp_path / name}" in result.stdout
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads((tmp_path / "folder/results.json").read_text())
    assert Explanation.load(tmp_path / "r.fullgrad.npz").method == "fullgrad"


def test_one_map_is_a_figure_and_several_are_a_page(tmp_path: Path) -> None:
    one, many = tmp_path / "one.png", tmp_path / "many.png"
    call("explain", DEMO, BAG.path, "-o", one, "-q", "--threads", 1)
    call("explain", DEMO, *(s.path for s in demo_samples()[:3]), "-m", "gradient", "-m", "fullgrad", "-o", many, "-q",
         "--threads", 1)  # fmt: skip
    assert size_of(one)[1] > size_of(one)[0]
    assert size_of(many)[0] > 3 * 256
    (entry,) = json.loads(read_text(one.read_bytes())["onnxplain"])
    assert (entry["sample"], entry["method"], entry["target"]) == ("bag.png", "fullgrad", 8)
    assert len(json.loads(read_text(many.read_bytes())["onnxplain"])) == 6


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        outs = [part for name in ("r.npz", "r.json", "r.png") for part in ("-o", tmp_path / folder / name)]
        assert call("explain", DEMO, BAG.path, "-q", "--threads", 1, *outs).exit_code == 0
    assert listing(tmp_path / "a") == listing(tmp_path / "b")


def test_a_series_is_drawn(tmp_path: Path) -> None:
    model = saved(series_model(), tmp_path / "m.onnx")
    x = array(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((2, 2, 16)).astype(np.float32))
    out = tmp_path / "s.png"
    assert call("explain", model, x, "-m", "input_x_gradient", "-o", out, "--threads", 1).exit_code == 0
    assert size_of(out)[1] > 900
    assert [entry["sample"] for entry in json.loads(read_text(out.read_bytes())["onnxplain"])] == [
        "x.npy[0]",
        "x.npy[1]",
    ]


def test_a_map_of_a_layer_is_drawn_over_the_series(tmp_path: Path) -> None:
    """Its attribution is named after the layer, which is no input of the model."""
    model = saved(series_model(), tmp_path / "m.onnx")
    x = array(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((1, 2, 16)).astype(np.float32))
    out = tmp_path / "s.png"
    assert call("explain", model, x, "-m", "gradcam", "-o", out, "--threads", 1).exit_code == 0
    assert size_of(out)[1] > 900


def test_tokens_are_named_and_drawn(tmp_path: Path) -> None:
    model = saved(token_model(), tmp_path / "m.onnx")
    ids = array(tmp_path / "ids.npy", np.array([[1, 4, 2, 0, 0]]))
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"<pad>": 0, "a": 1, "fine": 2, "bad": 3, "film": 4, "?": 5}))
    out = tmp_path / "t.png"
    named = call("explain", model, ids, "--tokens", words, "-m", "input_x_gradient", "-o", out, "--threads", 1)
    assert named.exit_code == 0, named.stderr
    assert "film" in named.stdout
    assert size_of(out)[0] > 100
    plain = call("explain", model, ids, "-m", "input_x_gradient", "--threads", 1)
    assert "film" not in plain.stdout


def test_a_table_has_numbers_and_bars(tmp_path: Path) -> None:
    model, x = saved(table_model(), tmp_path / "m.onnx"), array(tmp_path / "x.npy", np.eye(4, dtype=np.float32))
    result = call("explain", model, x, "-m", "input_x_gradient", "-t", "0", "--threads", 1)
    assert f"[2] {WEIGHTS[2, 0]:+.3g}" in result.stdout
    call("explain", model, x, "-m", "input_x_gradient", "-t", "0", "--rows", "0", "-o", tmp_path / "x.png")
    assert min(size_of(tmp_path / "x.png")) > 200


def test_what_has_no_picture_is_refused_one(tmp_path: Path) -> None:
    model = saved(two_inputs(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", first=np.ones((1, 3), np.float32), second=np.ones((1, 3), np.float32))
    assert "no picture" in refused("explain", model, tmp_path / "x.npz", "-o", tmp_path / "x.png")


def test_pictures_of_unequal_size(tmp_path: Path) -> None:
    """A model of open size takes them all, but one raw file cannot hold them."""
    model = saved(open_model(), tmp_path / "m.onnx")
    pictures = [picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2, (9, 5)), picture(tmp_path / "c.png", 3)]
    names = [entry["name"] for entry in document(model, *pictures, "-p", "unit")["methods"][0]["samples"]]
    assert names == ["a.png", "b.png", "c.png"]
    assert "differ in shape" in refused("explain", model, *pictures, "-p", "unit", "-o", tmp_path / "r.npz")
    together = ["-p", "unit", "--size", "6", "-o", tmp_path / "r.npz", "-q", "--threads", 1]
    assert call("explain", model, *pictures, *together).exit_code == 0
    assert len(Explanation.load(tmp_path / "r.npz")) == 3


@pytest.mark.parametrize("how", ["straight_through", "float_shadow"])
def test_treatment_of_an_int8_model_is_chosen_and_printed(tmp_path: Path, how: str) -> None:
    from tiny_models import model, node

    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"), node("MatMul", "d w", "y")]
    weights = {"s": np.array(0.1), "z": np.array(0, np.int8), "w": np.eye(3)}
    path = saved(model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, weights), tmp_path / "int8.onnx")
    rows = array(tmp_path / "x.npy", np.array([[0.11, 0.52, -0.3]], np.float32))
    assert document(path, rows, "--quantisation", how)["methods"][0]["quantisation"] == how
    assert "straight_through, float_shadow" in refused("explain", path, rows, "--quantisation", "int4")
