"""Optional packages: what is said when one is missing, and that nothing imports one before it is needed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tiny_models import fullgrad_net

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.extras import optional

Array = np.ndarray[Any, Any]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which neither package is installed."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("skimage", "sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("skimage", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)


def test_what_is_there_is_imported() -> None:
    assert optional("sklearn.linear_model", "x", "y").Ridge


@pytest.mark.usefixtures("without")
def test_what_is_missing_is_named_with_a_remedy() -> None:
    proto, x = fullgrad_net()
    with pytest.raises(
        OptionError, match=r"ridge regression needs scikit-learn.*onnxplain\[superpixels\].*kernel_shap"
    ):
        ox.explain(proto, x, method="lime", players="places")
    with pytest.raises(OptionError, match=r"players='slic' needs scikit-image.*grid:8"):
        ox.explain(proto, x, method="kernel_shap", players="slic")
    assert ox.explain(proto, x, method="kernel_shap").attributions["x"].any(), "the rest works without them"


def test_the_list_of_methods_needs_neither() -> None:
    code = "import sys, onnxplain as ox; ox.methods(); print({'skimage', 'sklearn', 'scipy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
