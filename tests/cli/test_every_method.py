"""`onnxplain explain` by every method on every kind of input: it runs, or says in one sentence why it cannot.

Methods come from the registry: a new one is asked to serve pictures, series, texts and several inputs here, and
what it refuses has to be written down below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import call, refused, saved
from tiny_models import assets, model, node

import onnxplain as ox

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
METHODS = {entry["name"]: entry["options"] for entry in ox.methods()}

#: Few of everything: what is shown is that a method serves an input, not how well.
FEW: dict[str, Any] = {"draws": 4, "steps": 3, "permutations": 1, "channels": 3, "tolerance": "none"}
#: Regressions need more rows than players.
MORE = {"kernel_shap": {"draws": 140}, "lime": {"draws": 140}}
#: Forward passes of a photograph cost.
COARSE: dict[str, dict[str, Any]] = {
    "kernel_shap": {"players": "grid:2", "draws": 14},
    "lime": {"players": "grid:2", "draws": 14},
    "shapley_sampling": {"players": "grid:2"},
    "occlusion": {"window": 112, "stride": 112},
}

ATTENTION = dict.fromkeys(("attention_gradient", "attention_rollout"), "there is no attention between")
NO_PICTURE = {"xrai": "xrai looks for regions in one picture, and this input is none"}
CAMS = ("eigencam", "gradcam", "gradcam_plus_plus", "guided_gradcam", "hirescam", "layercam", "score_cam", "xgradcam")
SEVERAL = {
    **dict.fromkeys(CAMS, "a class activation map is drawn over one input, and there are 'picture', 'row'; name one"),
    **dict.fromkeys(ATTENTION, "attention is followed back to one input, and there are 'picture', 'row'; name one"),
    **NO_PICTURE,
    "blur_ig": "'row' has no places that a blur could mix",
}


def two_inputs() -> onnx.ModelProto:
    """A picture through a convolution and a row of figures through a layer, joined in front of the answer."""
    rng = np.random.default_rng(0)
    nodes = [
        *(
            node("Conv", "picture k b", "z", pads=[1, 1, 1, 1]),
            node("Relu", "z", "a"),
            node("GlobalAveragePool", "a", "p"),
        ),
        *(node("Flatten", "p", "f"), node("Gemm", "row w c", "h"), node("Relu", "h", "r")),
        *(node("Concat", "f r", "joined", axis=1), node("Gemm", "joined v d", "y")),
    ]
    weights = {
        "k": rng.normal(size=(4, 1, 3, 3)), "b": rng.normal(size=4), "w": rng.normal(size=(3, 5)),
        "c": rng.normal(size=5), "v": rng.normal(size=(9, 2)), "d": rng.normal(size=2),
    }  # fmt: skip
    return model(nodes, {"picture": ["N", 1, 8, 8], "row": ["N", 3]}, {"y": ["N", 2]}, weights)


def array_of(name: str) -> Array:
    folder = assets()
    assert folder is not None
    return np.asarray(np.load(folder / "data" / name)["x"][:1], dtype=np.float32)


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


#: Net: file among the development models (empty: written here), its input, and who refuses it with which words.
NETS: dict[str, tuple[str, Callable[[], Any], dict[str, str]]] = {
    "photograph": ("efficientnet-lite0-op18.onnx", lambda: numbers(1, 3, 224, 224), ATTENTION),
    "picture": ("fmnist-vgg-small.onnx", lambda: array_of("fmnist_test.npz"), ATTENTION),
    "series": ("gunpoint-fcn.onnx", lambda: array_of("gunpoint_test.npz"), ATTENTION | NO_PICTURE),
    "text": (
        "sentiment-textcnn.onnx", lambda: np.random.default_rng(0).integers(1, 500, size=(1, 50)),
        ATTENTION | NO_PICTURE,
    ),
    "two inputs": ("", lambda: {"picture": numbers(1, 1, 8, 8), "row": numbers(1, 3)}, SEVERAL),
}  # fmt: skip


@cache
def prepared(net: str, folder: Path) -> tuple[Path, Path]:
    """Model and input as files."""
    name, make, _ = NETS[net]
    development = assets()
    if name and development is None:
        pytest.skip("the development models are not here")
    path = development / name if name and development is not None else saved(two_inputs(), folder / "two.onnx")
    data, x = folder / f"{net.replace(' ', '-')}.npz", make()
    np.savez(data, **x if isinstance(x, dict) else {"x": x})
    return path, data


def options(method: str, net: str) -> list[str]:
    few = {**FEW, **MORE.get(method, {}), **(COARSE.get(method, {}) if net == "photograph" else {})}
    return [f"-O{key}={value}" for key, value in few.items() if key in METHODS[method]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every")


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_kind_of_input(method: str, net: str, folder: Path, tmp_path: Path) -> None:
    path, data = prepared(net, folder)
    arguments = [path, data, "-m", method, *options(method, net), "--threads", "1"]
    words = NETS[net][2].get(method)
    if words is not None:
        assert words in refused("explain", *arguments)
        return
    out = tmp_path / "e.npz"
    result = call("explain", *arguments, "-q", "-o", out)
    assert result.exit_code == 0, result.stderr
    found = ox.Explanation.load(out)
    assert found.method == method
    assert all(np.isfinite(a).all() for a in found.attributions.values())
    # A share of the largest may be none at all in a small layer; that has a note then.
    assert any(a.any() for a in found.attributions.values()) or any("zero everywhere" in note for note in found.notes)


@pytest.mark.parametrize("method", sorted({*CAMS, "blur_ig", "xrai"}))
def test_one_of_two_inputs_by_name(method: str, folder: Path, tmp_path: Path) -> None:
    """What the refusals say to do."""
    path, data = prepared("two inputs", folder)
    out = tmp_path / "e.npz"
    result = call(
        "explain", path, data, "-m", method, "--wrt", "picture", *options(method, "two inputs"), "-q", "-o", out
    )
    assert result.exit_code == 0, result.stderr
    found = ox.Explanation.load(out)
    assert found.saliency is not None and found.saliency.shape == (1, 8, 8)
