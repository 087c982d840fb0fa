"""Two builds: equal ones agree, changed weights show where they were changed, thresholds hold or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_models import assets, model, node

import onnxplain as ox
from onnxplain.engine.errors import InputError, OptionError, OutputError
from onnxplain.engine.evaluation.builds import BuildReport, arranged, compare_builds
from onnxplain.engine.evaluation.randomise import randomised, weight_layers

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 3))
ROWS = RNG.standard_normal((5, 6)).astype(np.float32)


def linear(w: Array = W) -> onnx.ModelProto:
    return model([node("MatMul", "x w", "y")], {"x": ["N", len(w)]}, {"y": ["N", w.shape[1]]}, {"w": w})


def picture_net(name: str = "x", last: bool = False) -> onnx.ModelProto:
    """The same net with channels first, or with channels last and a Transpose in front."""
    rng = np.random.default_rng(1)
    weights = {"k": rng.normal(0, 0.5, (4, 3, 3, 3)), "w": rng.normal(0, 0.2, (4 * 64, 5))}
    shape = ["N", 8, 8, 3] if last else ["N", 3, 8, 8]
    nodes = [node("Transpose", name, "t", perm=[0, 3, 1, 2])] if last else []
    nodes += [
        node("Conv", f"{'t' if last else name} k", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"),
        node("Flatten", "r", "f"), node("MatMul", "f w", "y"),
    ]  # fmt: skip
    return model(nodes, {name: shape}, {"y": ["N", 5]}, weights)


PICTURES = RNG.standard_normal((6, 3, 8, 8)).astype(np.float32)


def test_a_build_and_itself() -> None:
    report = compare_builds(picture_net(), picture_net(), PICTURES, threads=1)
    assert report.summary()["flips"] == 0 and report.output_max.max() == 0
    for drift in report.drifts:
        np.testing.assert_allclose(drift.cosine, 1, atol=1e-9)
        np.testing.assert_allclose(drift.spearman, 1, atol=1e-9)
        np.testing.assert_array_equal(drift.overlap, 1)
    assert not report.breaches({"cosine": 0.999, "mean.spearman": 0.999, "flips": 0, "output_max": 0})
    assert abs(report.drifts[0].null["cosine"]) < 0.5, "maps of different noise are not alike"


def test_drift_by_hand() -> None:
    """A linear model: maps are columns of the weights, outputs their products."""
    other = W.copy()
    other[:, 1] += [0.5, 0, 0, 0, 0, -1]
    report = compare_builds(linear(), linear(other), ROWS, methods=["gradient"], threads=1)
    (drift,) = report.drifts
    a, b = ROWS.astype(np.float64) @ W, ROWS.astype(np.float64) @ other
    classes = a.argmax(axis=1)
    np.testing.assert_array_equal(report.classes, [classes, b.argmax(axis=1)])
    np.testing.assert_allclose(report.output_max, np.abs(a - b).max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(report.output_mean, np.abs(a - b).mean(axis=1), rtol=1e-4)
    p, q = W[:, classes].T, other[:, classes].T
    wanted = (p * q).sum(axis=1) / np.linalg.norm(p, axis=1) / np.linalg.norm(q, axis=1)
    np.testing.assert_allclose(drift.cosine, wanted, atol=1e-6)
    assert report.worst[0] == np.argmin(np.round(wanted, 9))
    assert report.rows()[0]["sample"] == str(report.worst[0])


def test_a_flipped_answer_is_explained_as_the_first_build_gave_it() -> None:
    report = compare_builds(linear(), linear(W[:, [1, 0, 2]]), ROWS, methods=["gradient"], threads=1)
    swapped = report.classes[0] != 2
    np.testing.assert_array_equal(report.flips, swapped)
    maps = report.drifts[0].maps
    np.testing.assert_allclose(maps[0], W[:, report.classes[0]].T, rtol=1e-5)
    np.testing.assert_allclose(maps[1], W[:, [1, 0, 2]][:, report.classes[0]].T, rtol=1e-5)
    assert report.breaches({"flips": int(swapped.sum())}) == []
    assert "flips is" in report.breaches({"flips": int(swapped.sum()) - 1})[0]


def test_another_name_and_another_layout_of_the_input() -> None:
    report = compare_builds(picture_net(), picture_net("image", last=True), PICTURES, threads=1)
    assert report.output_max.max() < 1e-5
    for drift in report.drifts:
        np.testing.assert_allclose(drift.cosine, 1, atol=1e-6)


def test_arranged_moves_channels_only_where_they_differ() -> None:
    x = np.zeros((2, 3, 8, 9))
    first, last = ("batch", None, "height", "width"), ("batch", "height", "width", None)
    assert arranged(x, first, last).shape == (2, 8, 9, 3)
    assert arranged(x, first, first) is x


def test_weights_drawn_anew_are_noticed() -> None:
    source = ox.load(picture_net(), threads=1)
    report = compare_builds(source, randomised(source, weight_layers(source)), PICTURES, methods=["gradient"])
    assert report.drifts[0].cosine.max() < 0.5
    (line,) = report.breaches({"cosine": 0.9})
    assert "gradient: cosine is" in line and "below 0.9" in line and f"on {report.names[report.worst[0]]}" in line


def test_a_map_without_contrast_holds_no_threshold() -> None:
    report = compare_builds(linear(), linear(np.zeros_like(W)), ROWS, methods=["gradient"], threads=1)
    assert np.isnan(report.drifts[0].cosine).all()
    assert report.breaches({"cosine": 0.0}) and report.breaches({"mean.cosine": -1.0})
    assert report.to_dict()["worst_first"][0]["cosine"] is None


def test_more_noise_more_drift() -> None:
    means = []
    for size in (0.01, 0.1, 1.0):
        noise = np.random.default_rng(2).standard_normal(W.shape)
        report = compare_builds(linear(), linear(W + size * noise), ROWS, methods=["gradient"], threads=1)
        means.append(float(report.drifts[0].cosine.mean()))
    assert means[0] > means[1] > means[2] and means[0] > 0.999


def test_files(tmp_path: Path) -> None:
    report = compare_builds(picture_net(), picture_net(), PICTURES, threads=1)
    lines = report.save(tmp_path / "b.csv").read_text().splitlines()
    assert lines[0].startswith("sample,method,cosine,spearman,overlap,output_max")
    assert len(lines) == 1 + 6 * 2
    assert report.save(tmp_path / "b.png", count=2).read_bytes().startswith(b"\x89PNG")
    assert report.save(tmp_path / "b.json").stat().st_size > 500
    rows = compare_builds(linear(), linear(), ROWS, methods=["gradient"], threads=1)
    with pytest.raises(OutputError, match="not those of pictures"):
        rows.save(tmp_path / "rows.png")


def test_bad_requests() -> None:
    with pytest.raises(InputError, match="3 and 2 numbers"):
        compare_builds(linear(), linear(W[:, :2]), ROWS, methods=["gradient"])
    with pytest.raises(InputError, match="takes"):
        compare_builds(linear(), linear(W[:4]), ROWS, methods=["gradient"])
    with pytest.raises(OptionError, match="no method was named"):
        compare_builds(linear(), linear(), ROWS, methods=[])
    report = compare_builds(linear(), linear(), ROWS, methods=["gradient"])
    with pytest.raises(OptionError, match="no threshold 'angle'"):
        report.breaches({"angle": 1})
    with pytest.raises(OptionError, match=r"no threshold 'median\.cosine'"):
        report.breaches({"median.cosine": 1})


@pytest.mark.slow
def test_float_against_int8() -> None:
    """A real quantised file: answers stay, coarse maps stay, gradients of single pixels move but are no noise."""
    folder = assets()
    if folder is None or not (folder / "efficientnet-lite0-int8-qdq.onnx").exists():
        pytest.skip("the development networks are not here")
    data = pytest.importorskip("skimage.data", reason="needs scikit-image's pictures")
    from onnxplain.engine.cards import resolve

    shown = resolve("efficientnet-lite")
    assert shown is not None
    x = np.concatenate([shown.apply(picture) for picture in (data.chelsea(), data.coffee(), data.astronaut())])
    report: BuildReport = compare_builds(
        folder / "efficientnet-lite0-op18.onnx", folder / "efficientnet-lite0-int8-qdq.onnx", x,
        methods=["gradcam", "input_x_gradient"], threads=1,
    )  # fmt: skip
    assert report.flips[1] == 0, "espresso at .95 does not flip"
    coarse, fine = report.drifts
    assert coarse.cosine.min() > 0.95 > coarse.null["cosine"]
    assert 0.3 < fine.cosine.min() < coarse.cosine.min()
    assert abs(fine.null["cosine"]) < 0.1
    assert 0.01 < report.output_max.max() < 3
