"""The comparison of a file with a framework, on files and numbers written down here."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxplain.engine.errors import ExportError
from onnxplain.exporters import verify


def _double(path: Path, element: int = TensorProto.FLOAT, opset: int = 18, operator: str = "Add") -> Path:
    """A file that answers x + x."""
    tensor = [helper.make_tensor_value_info(name, element, ["n", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x", "x"], ["y"])], "g", tensor[:1], tensor[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


X = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)


def test_agreement_reports_the_relative_difference(tmp_path: Path) -> None:
    file = _double(tmp_path / "m.onnx")
    # The largest expected value is 8; the second case is off by 8e-4 at one place: 1e-4 of it.
    off = 2 * X + np.array([[0, 0], [8e-4, 0]], np.float32)
    cases = [verify.Case({"x": X}, {"y": 2 * X}), verify.Case({"x": X}, {"y": off})]
    agreement = verify.check_agreement(file, cases, tolerance=1e-3)
    assert agreement.max_difference["y"] == pytest.approx(1e-4, rel=1e-2)  # float32 holds 6 + 8e-4 to 5e-7
    assert agreement.tolerance == {"y": 1e-3}
    assert agreement.runtime.startswith("onnxruntime")
    with pytest.raises(ExportError, match=r"output 'y' .* differs .*1\.00e-04"):
        verify.check_agreement(file, cases, tolerance=5e-5)


def test_wrong_number_of_outputs(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="1 outputs and the framework gives 2"):
        verify.check_agreement(_double(tmp_path / "m.onnx"), [verify.Case({"x": X}, {"y": 2 * X, "z": X})])


def test_a_file_that_does_not_run_at_the_inputs(tmp_path: Path) -> None:
    wide = np.zeros((1, 3), np.float32)
    with pytest.raises(ExportError, match="does not run on onnxruntime"):
        verify.check_agreement(_double(tmp_path / "m.onnx"), [verify.Case({"x": wide}, {"y": wide})])


def test_invalid_onnx_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"not valid ONNX: .*Erfc"):
        verify.open_runner(_double(tmp_path / "m.onnx", operator="Erfc"))


def test_without_onnxruntime_the_reference_runs_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    agreement = verify.check_agreement(_double(tmp_path / "m.onnx"), [verify.Case({"x": X}, {"y": 2 * X})])
    assert agreement.runtime.startswith("onnx.reference")
    assert agreement.notes == ("compared on onnx.reference: no onnxruntime is installed",)
    assert agreement.max_difference == {"y": 0.0}


def test_types_without_a_kernel_go_to_the_reference(tmp_path: Path) -> None:
    x = X.astype(ml_dtypes.bfloat16)
    file = _double(tmp_path / "m.onnx", TensorProto.BFLOAT16)
    agreement = verify.check_agreement(file, [verify.Case({"x": x}, {"y": x + x})])
    assert agreement.runtime.startswith("onnx.reference")
    assert agreement.tolerance == {"y": verify.TOLERANCES["bfloat16"]}


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ([2.0, -4.0], [2.0, -4.4], 0.1),
        ([0.0, 0.0], [0.0, 0.3], 0.3),  # nothing to be relative to
        ([-INF, 1.0], [-INF, 1.0], 0.0),  # a mask of logits
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([1.0, 1.0], [NAN, 1.0], INF),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([INF, 1.0], [7.0, 1.0], INF),
    ],
)
def test_relative_difference(expected: list[float], actual: list[float], difference: float) -> None:
    got = verify.relative_difference("y", np.array(expected), np.array(actual))
    assert got == pytest.approx(difference, rel=1e-12)


def test_integers_have_to_be_equal() -> None:
    assert verify.relative_difference("y", np.array([10**6, 2]), np.array([10**6, 2])) == 0.0
    assert verify.relative_difference("y", np.array([10**6, 2]), np.array([10**6, 3])) == np.inf


@pytest.mark.parametrize(
    ("expected", "actual", "message"),
    [
        (np.zeros((3, 2)), np.zeros((1, 2)), r"shape \(1, 2\) .* and \(3, 2\)"),
        (np.zeros(2, np.float32), np.zeros(2, np.float16), "float16 in the exported file and float32"),
        (np.full(2, np.nan), np.zeros(2), "NaN or infinite throughout"),
    ],
)
def test_outputs_that_cannot_be_compared(expected: verify.Array, actual: verify.Array, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        verify.relative_difference("y", expected, actual)


def test_vary_stays_in_the_domain_of_the_sample() -> None:
    rng = np.random.default_rng(3)
    picture = rng.random((1, 4, 4)).astype(np.float32)
    ids = np.array([[0, 7, 49]])
    mask = np.array([[True, False, True]])
    table = rng.random((5, 5)).astype(np.float32)
    moved, shuffled, masked, same = verify.vary([picture, ids, mask, table], [True, True, True, False], 3)
    assert moved.shape == (3, 4, 4)
    assert moved.dtype == np.float32
    assert moved.min() >= picture.min()
    assert moved.max() <= picture.max()
    assert not np.array_equal(moved[0], moved[1])
    assert not np.array_equal(moved[0], picture[0])
    assert shuffled.shape == (3, 3)
    assert sorted(shuffled.ravel()) == sorted([0, 7, 49] * 3)
    assert masked.dtype == np.bool_
    assert masked.sum() == 6
    assert same is table


def test_vary_is_keyed_by_its_seed_and_moves_constants() -> None:
    zeros = [np.zeros((2, 3), np.float32)]
    first, again, other = (verify.vary(zeros, [True], None, seed)[0] for seed in (1, 1, 2))
    assert first.shape == (2, 3)
    assert first.any()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
