"""What implements custom operators: sorted by who runs it, and refused where nobody could."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from custom_operators import CUBE, Cube, X, net

from onnxplain.engine.errors import OptionError, SessionError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.session.custom_ops import implementations
from onnxplain.engine.session.session import Session


def test_sorted_by_who_runs_it(tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.write_bytes(b"")
    for given in (library, str(library), [library], (str(library),)):
        assert implementations(given).libraries == (library.resolve(),)
    both = implementations([library, Cube])
    assert (both.libraries, both.evaluators) == ((library.resolve(),), (Cube,))
    assert implementations(None) == implementations([])


class NoOperator:
    """No OpRun."""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("none.so", "does not exist"),
        (7, "implements nothing"),
        (NoOperator, "cannot run"),
        ([Cube, 1.5], "implements nothing"),
    ],
)
def test_refused(given: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        implementations(given)


def test_a_class_for_the_evaluator() -> None:
    proto = net("Cube")
    expected = Session(canonicalise(read_model(net("Cube", CUBE))), threads=1).run({"x": X})["y"]
    found = Session(canonicalise(read_model(proto)), "reference", custom_ops=Cube).run({"x": X})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(SessionError):
        Session(canonicalise(read_model(proto)), "reference")


def test_what_nobody_implements_names_the_way_out() -> None:
    with pytest.raises(SessionError, match=r"--custom-ops"):
        Session(canonicalise(read_model(net("Cube"))))


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "ops.so").write_text("nothing")
    with pytest.raises(SessionError, match=r"ops\.so"):
        Session(canonicalise(read_model(net("Cube"))), custom_ops=tmp_path / "ops.so")


def test_a_library_that_onnxruntime_loads() -> None:
    extensions = pytest.importorskip("onnxruntime_extensions", reason="needs onnxruntime-extensions (extra test)")
    from tiny_models import model, node

    proto = model(
        [node("Inverse", "x", "y", domain="ai.onnx.contrib")], {"x": [3, 3]}, {"y": [3, 3]}, domains=["ai.onnx.contrib"]
    )
    x = np.array([[2, 1, 0], [0, 1, 0], [1, 0, 4]], np.float32)
    session = Session(canonicalise(read_model(proto)), custom_ops=extensions.get_library_path())
    np.testing.assert_allclose(session.run({"x": x})["y"] @ x, np.eye(3), atol=1e-6)
