"""A compiled file gives the Python call's numbers in other runtimes: alone, the oldest, OpenVINO, Node.js, a browser.

Each of them is tested where it is installed; where it is not, the test says what to install.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign import RUNTIMES, Answers
from foreign_matrix import CASES, COLLECTED, LARGE, METHODS, Made, compiled, gaps, names, source
from tiny_models import assets

from onnxplain.engine.shipping.opsets import NEWEST_OPSET

#: Relative to the largest element: float32 kernels of other libraries take sums in another order.
CLOSE = 1e-5

#: The model's own outputs: beside the plain model's in the same runtime, relative to the largest.
SAME = 1e-6

#: On the large network float32 does not decide these results, whatever the input: on the same one the Python call is
#: itself away from float64 by a twentieth of the bound or more (`test_what_float32_cannot_decide`).
UNDECIDED = {
    "integrated_gradients": 5e-3,  # of 30 million numbers at six points some lie next to a kink of ReLU6
    "smoothgrad": 4e-2,  # noise in every place: even more of them, and each of four draws is a quarter of the mean
    "lrp": 1e-4,  # shares of sums that nearly cancel
    "deeplift": 2e-4,  # quotients of differences that nearly cancel
    "gradcam": 5e-5,  # channels that nearly cancel
    "layercam": 5e-5,
}

#: onnxruntime's builds for this processor have the same kernels, so nothing is undecided there.
SAME_KERNELS = ("alone", "oldest", "node")

#: The large network takes minutes in a browser.
LARGE_TOO = bool(os.environ.get("ONNXPLAIN_LARGE"))


def models() -> list[str]:
    """Those that are here, the large one where it is asked for."""
    return [n for n in names() if n not in LARGE or LARGE_TOO]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Every method on every model that it suits, and every model as it is."""
    folder = tmp_path_factory.mktemp("files")
    return {name: one for model in models() for name, one in compiled(folder, model).items()}


def test_ten_methods_on_five_models(made: dict[str, Made]) -> None:
    """Of the collection all five suit all ten methods; of a table or a smooth network some methods say nothing."""
    assert len(METHODS) == 10
    for model in models():
        found = {one.method for one in made.values() if one.model == model and one.method}
        if model in COLLECTED or model in ("demo", "pictures"):
            assert found == set(METHODS), model
        assert len(found) >= 7
    if assets() is not None and LARGE_TOO:
        assert sum(one.model in COLLECTED and bool(one.method) for one in made.values()) == 50


def test_files_are_of_the_standard(made: dict[str, Made]) -> None:
    """They pass the full check, have operators of the standard domain, and an opset that the oldest runtime loads."""
    for name, one in made.items():
        if not one.method:
            continue
        onnx.checker.check_model(str(one.path), full_check=True)
        opsets = {o.domain: o.version for o in onnx.load(one.path).opset_import}
        assert list(opsets) == [""], name
        assert opsets[""] <= NEWEST_OPSET


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_files_give_the_calls_numbers(runtime: str, made: dict[str, Made], tmp_path: Path) -> None:
    lacks = RUNTIMES[runtime].lacks()
    if lacks:
        pytest.skip(lacks)
    answers = RUNTIMES[runtime].run({name: (one.path, one.feeds) for name, one in made.items()}, tmp_path)
    wrong = [words for name, one in made.items() for words in differences(runtime, name, one, answers)]
    assert not wrong, "\n".join(wrong)


def differences(runtime: str, name: str, one: Made, answers: Answers) -> list[str]:
    """What is too far from the Python call, and which outputs are not the plain model's in the same runtime."""
    if not one.method:
        return []
    undecided = one.model in LARGE and runtime not in SAME_KERNELS
    bound = UNDECIDED.get(one.method, CLOSE) if undecided else CLOSE
    found = gaps(answers[name], one.call)
    wrong = [
        f"{runtime}: {name}: {key} {gap.max():.1e}"
        for key, gap in found.items()
        if gap.max() > (bound if key in ("attribution", "saliency") else CLOSE)
    ]
    for key, own in answers[one.model].items():
        apart = np.abs(answers[name][key] - own).max() / np.abs(own).max()
        if apart > SAME:
            wrong.append(f"{runtime}: {name}: output {key} is {apart:.1e} from the plain model's")
    return wrong


@pytest.mark.parametrize("model", [n for n in CASES if n in names() and n not in LARGE])
def test_the_inputs_keep_away_from_kinks(model: str) -> None:
    """So that a difference in another runtime is one of its arithmetic: float64 says the same as float32."""
    for method, apart in from_float64(model, tuple(METHODS)).items():
        assert apart < CLOSE / 2, method


@pytest.mark.slow
@pytest.mark.skipif(not LARGE_TOO or assets() is None, reason="needs the collection of models and ONNXPLAIN_LARGE=1")
@pytest.mark.parametrize("model", LARGE)
def test_what_float32_cannot_decide(model: str) -> None:
    """The Python call itself is this far from float64: no runtime that computes in float32 can be held to less."""
    for method, apart in from_float64(model, tuple(METHODS)).items():
        most = UNDECIDED.get(method, CLOSE / 2)
        assert apart < most and (method not in UNDECIDED or most / 20 < apart), f"{method}: {apart:.1e}"


def from_float64(model: str, methods: tuple[str, ...]) -> dict[str, float]:
    """How far the Python call is from the same call in float64, by the reference evaluator."""
    import onnxplain as ox
    from onnxplain.engine.verification.probe import doubled

    loaded, feed, x = source(model)
    target = np.arange(len(x)) % 2
    found = {}
    for method in methods:
        try:
            call = ox.compile(loaded, method=method, threads=1, **METHODS[method])({feed: x}, target=target)
        except ox.OnnxplainError:
            continue
        exact = ox.compile(doubled(loaded), method=method, providers="reference", **METHODS[method])
        wide = x.astype(np.float64) if x.dtype.kind == "f" else x
        (wanted,) = exact({feed: wide}, target=target).attributions.values()
        (given,) = call.attributions.values()
        found[method] = float(np.abs(given - wanted).max() / np.abs(wanted).max())
    return found
