"""The exporters' common part: who is asked, what is refused, and that no framework is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxplain.engine.errors import ExportError, OptionError
from onnxplain.exporters import Exporter, ExportReport, ExportRequest, Folded, TensorInfo, export, exporters

SAMPLE = np.zeros((1, 2), np.float32)


class Toy:
    """A model of a framework that does not exist."""


def _report(request: ExportRequest) -> ExportReport:
    return ExportReport(
        path=request.path,
        exporter="toy 1",
        opset=request.opset,
        ir_version=10,
        inputs=(TensorInfo("x", "float32", ("batch", 2)),),
        outputs=(TensorInfo("output", "float32", ("batch",)),),
        operators={"Conv": 2},
        folded=(Folded("BatchNormalization", 2, 0),),
        max_difference={"output": 0.0},
        tolerance={"output": 1e-4},
        batch_sizes=(1, 3),
        runtime="none",
        notes=(),
        files={request.path.name: "00"},
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, ExportRequest, dict[str, Any]]]:
    """Register an exporter for Toy for one test; the list receives what it is called with."""
    calls: list[tuple[Any, Any, ExportRequest, dict[str, Any]]] = []

    def do_export(obj: Any, sample: Any, request: ExportRequest, *, speed: int = 1) -> ExportReport:
        calls.append((obj, sample, request, {"speed": speed}))
        return _report(request)

    exporters.names()  # load the built-in ones into the table that is copied
    entries = {"toy": Exporter("toy.Toy", lambda obj: isinstance(obj, Toy), do_export)}
    monkeypatch.setattr(exporters, "_entries", {**exporters._entries, **entries})
    return calls


def test_unknown_object_is_refused_with_the_kinds_that_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"dict.*torch\.nn\.Module.*ExportedProgram"):
        export({"a": 1}, SAMPLE, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_class_in_place_of_an_object_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the class Toy itself"):
        export(Toy, SAMPLE, tmp_path / "m.onnx")


def test_a_registered_exporter_gets_the_request(asked: list[Any], tmp_path: Path) -> None:
    toy = Toy()
    report = export(
        toy, SAMPLE, str(tmp_path / "m.onnx"), opset=20, fold=True, input_names=["a"], tolerance=0.5, speed=3
    )
    ((obj, sample, request, options),) = asked
    assert obj is toy
    assert sample is SAMPLE
    assert request == ExportRequest(tmp_path / "m.onnx", 20, True, None, True, ("a",), None, 0.5)
    assert options == {"speed": 3}
    assert report.sha256 == "00"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sped": 3}, "the toy exporter has no option 'sped'; it has speed"),
        ({"input_names": "x"}, "give a list of names"),
        ({"output_names": ["y", "y"]}, "repeated name"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"tolerance": float("nan")}, "tolerance=nan"),
    ],
)
def test_bad_options_are_refused_before_work_begins(
    asked: list[Any], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        export(Toy(), SAMPLE, tmp_path / "m.onnx", **options)
    assert asked == []


def test_report_as_json_values() -> None:
    values = _report(ExportRequest(Path("m.onnx"))).to_dict()
    assert values["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]
    assert values["folded"] == [{"operator": "BatchNormalization", "before": 2, "after": 0}]
    assert values["sha256"] == "00"
    assert str(Folded("BatchNormalization", 2, 0)) == "BatchNormalization: 2 -> 0"


def test_asking_every_exporter_imports_no_framework() -> None:
    code = (
        "import sys, onnxplain.exporters as e\n"
        "print([entry.can_export(object()) for _, entry in e.exporters])\n"
        "print([m for m in ('torch', 'tensorflow', 'jax', 'onnxscript', 'onnxruntime') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    answers, imported = out.splitlines()
    assert "True" not in answers
    assert "False" in answers
    assert imported == "[]"
