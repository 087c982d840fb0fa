"""Rules of ScatterElements and ScatterND."""

from __future__ import annotations

import numpy as np
from onnx import helper
from rule_cases import Case, case, check, distinct, parametrize
from run_time import gradient, ints, model, of_one_node

ROWS = ints(2, 0, 1, 0, 1, 3).reshape(2, 3)  # along axis 0 no place twice
MET = ints(1, 1, 1, 1, 0, 1).reshape(2, 3)  # places that several updates meet at
PAIRS = ints(1, 0, 0, 2).reshape(2, 2)
SAME = ints(1, 1, 3).reshape(3, 1)
FIXED = np.asarray([[0.31, -0.72, 1.1], [0.93, 0.55, -1.4]])
DATA = np.linspace(-1.0, 1.3, 12).reshape(4, 3)
ALL = ("none", "add", "mul", "max", "min")

CASES = [
    *(case("ScatterElements", x=(4, 3), i=ROWS, u=(2, 3), reduction=r, batch=False, draw=distinct) for r in ALL),
    *(case("ScatterElements", x=(4, 3), i=MET, u=(2, 3), reduction=r, batch=False, draw=distinct) for r in ALL[1:]),
    *(case("ScatterElements", x=(4, 3), i=ROWS, u=FIXED, reduction=r, batch=False, draw=distinct) for r in ALL),
    *(
        case("ScatterElements", x=DATA, i=ROWS, u=(2, 3), reduction=r, batch=False, symbolic=False, draw=distinct)
        for r in ALL
    ),
    case("ScatterElements", x=(2, 4), i=ints(3, 1, 0, -1).reshape(2, 2), u=(2, 2), axis=-1, batch=False),
    *(case("ScatterND", x=(4, 3), i=PAIRS, u=(2,), reduction=r, batch=False, draw=distinct) for r in ALL),
    *(case("ScatterND", x=(4, 3), i=SAME, u=(3, 3), reduction=r, batch=False, draw=distinct) for r in ALL[1:]),
    case("ScatterND", x=(4, 3), i=PAIRS, u=np.asarray([0.3, -0.4]), batch=False),
    case("ScatterND", x=np.ones((4, 3)), i=PAIRS, u=(2,), batch=False, symbolic=False),
]

CASES += [
    case("TensorScatter", x=(2, 3, 5, 4), u=(2, 3, 2, 4), i=np.asarray([1, 3]), opset=24, batch=False),
    case("TensorScatter", x=(2, 5, 4), u=(2, 2, 4), i=np.asarray([4, 3]), opset=24, mode="circular", batch=False),
    case("TensorScatter", x=(2, 5, 4), u=(2, 5, 3), i=np.asarray([0, 1]), axis=2, opset=24, batch=False),
    case("TensorScatter", x=(2, 5, 4), u=(2, 2, 4), opset=24, batch=False),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)


def test_product_with_a_factor_of_zero() -> None:
    """The zero's own gradient is the product of the others; the others' is zero; two zeros leave nothing."""
    feeds = {
        "x": np.asarray([2.0, 3.0, 5.0], np.float32),
        "i": ints(0, 0, 1, 1, 2),
        "u": np.asarray([0.0, 7.0, 0.0, 0.0, 2.0], np.float32),
    }
    proto = model([helper.make_node("ScatterElements", list(feeds), ["y"], reduction="mul")], feeds)
    np.testing.assert_array_equal(gradient(proto, feeds, np.ones(3, np.float32), "u"), [14, 0, 0, 0, 5])


def test_equal_candidates_share_a_maximum() -> None:
    """The gradient is neither lost nor doubled."""
    feeds = {"x": np.asarray([1.0, 2.0], np.float32), "i": ints(0, 0), "u": np.asarray([1.0, 1.0], np.float32)}
    found = of_one_node("ScatterElements", feeds, np.asarray([3.0, 1.0], np.float32), reduction="max")
    np.testing.assert_allclose(found, [1, 1])
