"""Energy-based localisation: shares by hand, negative relevance left out, soft masks."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_cases import given, linear, measured

from onnxplain.engine.errors import OptionError

MODEL = linear(np.ones((1, 2, 2)))
X = np.ones((1, 1, 2, 2))
MASK = np.array([[[1.0, 0.0], [0.0, 0.5]]])


def test_share_of_the_positive_part() -> None:
    saliency = np.array([[[2.0, 1.0], [-5.0, 4.0]]])
    found = measured(given(MODEL, X, X, saliency=saliency, masks=MASK), "energy_localisation")
    assert found.values == pytest.approx([(2 + 2) / 7])
    assert found.facts["uniform"] == pytest.approx(1.5 / 4)


def test_all_and_nothing() -> None:
    on = np.array([[[3.0, 0.0], [0.0, 0.0]]])
    assert measured(given(MODEL, X, X, saliency=on, masks=MASK), "energy_localisation").values == [1]
    assert measured(given(MODEL, X, X, saliency=on[:, :, ::-1], masks=MASK), "energy_localisation").values == [0]
    for saliency, mask in ((-on, MASK), (on, 0 * MASK)):
        found = measured(given(MODEL, X, X, saliency=saliency, masks=mask), "energy_localisation")
        assert np.isnan(found.values).all()


def test_masks_are_needed() -> None:
    with pytest.raises(OptionError, match="give masks= or boxes"):
        measured(given(MODEL, X, X), "energy_localisation")
