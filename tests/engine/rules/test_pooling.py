"""Rules of pooling; ``distinct`` keeps ties out of the maxima."""

from __future__ import annotations

import numpy as np
from rule_cases import Case, case, check, distinct, parametrize

CASES = [
    case("MaxPool", x=(2, 3, 9), kernel_shape=[3], strides=[2], draw=distinct),
    case("MaxPool", x=(2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2], draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[1, 1], draw=distinct),
    case("MaxPool", x=(2, 3, 8, 8), kernel_shape=[3, 2], strides=[2, 2], dilations=[2, 1], draw=distinct),
    case("MaxPool", x=(2, 3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER", draw=distinct),
    case("MaxPool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER", draw=distinct),
    case("MaxPool", x=(2, 2, 4, 5, 4), kernel_shape=[2, 2, 2], strides=[2, 2, 2], draw=distinct),
    case("MaxPool", x=(2, 3, 6, 6), kernel_shape=[2, 2], strides=[2, 2], storage_order=1, draw=distinct),
    case("MaxPool", x=(2, 3, 6, 6), kernel_shape=[2, 2], opset=8, draw=distinct),
    case("AveragePool", x=(2, 3, 9), kernel_shape=[3], strides=[2]),
    case("AveragePool", x=(2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2]),
    case("AveragePool", x=(2, 3, 7, 9), kernel_shape=[2, 2], strides=[2, 2]),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[3, 3], pads=[1, 0, 1, 2]),
    case("AveragePool", x=(2, 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, symbolic=False),
    case(
        *("AveragePool",), x=(2, 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1],
        count_include_pad=1, symbolic=False,
    ),
    case("AveragePool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", x=(2, 2, 4, 4, 6), kernel_shape=[2, 2, 3], strides=[2, 2, 3]),
    case("AveragePool", x=(2, 3, 8, 8), kernel_shape=[2, 2], dilations=[2, 2], strides=[1, 2], opset=19),
    case("GlobalAveragePool", x=(2, 3, 5, 4)),
    case("GlobalAveragePool", x=(2, 3, 5)),
    case("GlobalMaxPool", x=(2, 3, 5, 4), draw=distinct),
    case("GlobalMaxPool", x=(2, 3, 5), draw=distinct),
    case("LpPool", x=(2, 3, 9), kernel_shape=[3], strides=[2]),
    case("LpPool", x=(2, 3, 6, 8), kernel_shape=[2, 2], strides=[2, 2]),
    case("LpPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], p=3),
    case("LpPool", x=(2, 3, 7, 7), kernel_shape=[3, 3], pads=[1, 0, 1, 2], p=1),
    case("LpPool", x=(2, 3, 7, 7), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER", symbolic=False),
    case("LpPool", x=(2, 3, 8, 8), kernel_shape=[2, 2], dilations=[2, 2], strides=[1, 2]),
    case("LpPool", x=(2, 2, 4, 4, 6), kernel_shape=[2, 2, 3], strides=[2, 2, 3], opset=11),
    case("GlobalLpPool", x=(2, 3, 5, 4)),
    case("GlobalLpPool", x=(2, 3, 5), p=1),
    case("GlobalLpPool", x=(2, 3, 5, 2, 2), p=3),
    case("MaxUnpool", x=(1, 1, 2, 2), i=np.asarray([[[[5, 7], [13, 15]]]]), kernel_shape=[2, 2], strides=[2, 2], batch=False),
    case("MaxUnpool", x=(1, 1, 3), i=np.asarray([[[1, 1, 3]]]), kernel_shape=[2], batch=False, symbolic=False),
    case("MaxUnpool", x=(1, 1, 2, 2), i=np.asarray([[[[0, 3], [9, 10]]]]), shape=np.asarray([1, 1, 4, 4]), kernel_shape=[2, 2],
         strides=[2, 2], batch=False, symbolic=False),
]  # fmt: skip


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
