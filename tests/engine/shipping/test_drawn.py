"""Stored draws: what is too much is refused, and equal tables are not one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from smooth_models import smooth_picture_net

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import Plan
from onnxplain.engine.rewrite import Rewriter
from onnxplain.engine.shipping.drawn import DRAWN, drawn


def test_too_many_draws_are_refused_before_they_are_made() -> None:
    proto, _ = smooth_picture_net()
    for method, options in (
        ("smoothed", {"draws": 10**7}),
        ("smooth_fullgrad", {"draws": 10**7}),
        ("expected_gradients", {"draws": 10**7}),
    ):
        with pytest.raises(OptionError, match=r"would take \d+\.\d GB in the file; give fewer"):
            ox.compile(proto, method=method, **options).ship()


def test_draws_within_draws_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxplain.engine.shipping.drawn.MOST_BYTES", 30_000)
    proto, _ = smooth_picture_net()
    inner = {"around": "smoothgrad", "inner": {"draws": 10}}  # a draw is 960 bytes
    ox.compile(proto, method="smoothed", draws=2, **inner).ship()
    with pytest.raises(OptionError, match="draws within draws"):
        ox.compile(proto, method="smoothed", draws=4, **inner).ship()


def test_every_table_is_a_value_of_its_own() -> None:
    proto, _ = smooth_picture_net()
    rewriter = Rewriter(ox.load(proto).canonical)
    plan = Plan(rewriter, rewriter.seed(fixed=0), [])
    tables = [drawn(plan, lambda seed: np.full(3, float(seed)), ir.DataType.FLOAT) for _ in range(2)]
    assert tables[0] is not tables[1]
    assert [one.value for one in plan.memo[DRAWN]] == tables
    np.testing.assert_array_equal(plan.memo[DRAWN][0].make(5), np.full(3, 5.0))
