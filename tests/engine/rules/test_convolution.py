"""Rules of Conv and ConvTranspose."""

from __future__ import annotations

import numpy as np
from rule_cases import Case, case, check, parametrize

CASES = [
    case("Conv", x=(2, 3, 9), w=(4, 3, 3), b=(4,), pads=[1, 1]),
    case("Conv", x=(2, 3, 7, 8), w=(4, 3, 3, 3), b=(4,)),
    case("Conv", x=(2, 3, 7, 8), w=(4, 3, 3, 2), pads=[1, 0, 2, 1]),
    case("Conv", x=(2, 3, 7, 8), w=(4, 3, 1, 1)),
    case("Conv", x=(2, 3, 7, 8), w=(4, 3, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1]),
    # With more than a few channels the gradient is a convolution with the flipped kernel.
    case("Conv", x=(2, 6, 9), w=(4, 6, 3), b=(4,), pads=[1, 1]),
    case("Conv", x=(2, 5, 7, 8), w=(4, 5, 3, 2), pads=[1, 0, 2, 1]),
    case("Conv", x=(2, 5, 7, 8), w=(4, 5, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1]),
    case("Conv", x=(2, 5, 4, 4), w=(3, 5, 2, 2), pads=[3, 3, 2, 2], name="Conv(pads beyond the kernel, channels)"),
    case("Conv", x=(2, 5, 4, 6, 4), w=(3, 5, 3, 2, 3), b=(3,), pads=[1, 0, 1, 1, 1, 1]),
    case("Conv", x=(2, 3, 8, 9), w=(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("Conv", x=(2, 3, 9, 9), w=(4, 3, 3, 3), strides=[2, 3]),
    case("Conv", x=(2, 3, 10, 9), w=(4, 3, 2, 3), strides=[3, 2], dilations=[2, 2], pads=[1, 2, 0, 1]),
    case("Conv", x=(2, 3, 8, 8), w=(4, 3, 1, 1), strides=[2, 2]),
    case("Conv", x=(2, 3, 8, 12), w=(5, 3, 4, 4), strides=[4, 4], b=(5,)),
    case("Conv", x=(2, 3, 9, 9), w=(5, 3, 4, 4), strides=[4, 4]),
    case("Conv", x=(2, 4, 6, 6), w=(6, 2, 3, 3), group=2, pads=[1, 1, 1, 1], b=(6,)),
    case("Conv", x=(2, 4, 6, 6), w=(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    case("Conv", x=(2, 4, 7, 7), w=(8, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    case("Conv", x=(2, 2, 5, 6, 4), w=(3, 2, 3, 2, 3), b=(3,), pads=[1, 0, 1, 1, 1, 1]),
    case("Conv", x=(2, 2, 5, 6, 5), w=(3, 2, 2, 2, 2), strides=[2, 1, 2]),
    case("Conv", x=(2, 2, 4, 4), w=(3, 2, 2, 2), pads=[3, 3, 2, 2], name="Conv(pads beyond the kernel)"),
    case("Conv", x=(2, 3, 8, 7), w=(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", x=(2, 3, 8, 7), w=(4, 3, 4, 4), auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", x=(2, 3, 8, 7), w=(4, 3, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", x=(2, 3, 8, 7), w=(4, 3, 2, 2), auto_pad="VALID"),
    case("Conv", x=(2, 3, 6, 6), w=(4, 3, 3, 3), opset=11),
    case("ConvTranspose", x=(2, 3, 5), w=(3, 4, 3), b=(4,), strides=[2]),
    case("ConvTranspose", x=(2, 3, 4, 5), w=(3, 4, 3, 3), b=(4,), pads=[1, 1, 1, 1]),
    case("ConvTranspose", x=(2, 3, 4, 5), w=(3, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", x=(2, 3, 4, 5), w=(3, 4, 3, 2), strides=[2, 3], output_padding=[1, 2]),
    case("ConvTranspose", x=(2, 4, 4, 4), w=(4, 3, 3, 3), group=2, strides=[2, 2], dilations=[1, 2], b=(6,)),
    case("ConvTranspose", x=(2, 3, 4, 4), w=(3, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", x=(2, 3, 4, 4), w=(3, 4, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", x=(2, 3, 4, 4), w=(3, 4, 3, 3), strides=[2, 2], output_shape=[8, 8], symbolic=False),
    case("ConvTranspose", x=(2, 3, 3, 3), w=(3, 4, 3, 3), b=(4,), strides=[3, 2], output_shape=[10, 8], symbolic=False),
    case("ConvTranspose", x=(2, 3, 3), w=(3, 4, 2), strides=[3], output_shape=[9], output_padding=[1], symbolic=False),
    case("ConvTranspose", x=(2, 3, 3), w=(3, 4, 2), strides=[3], auto_pad="SAME_UPPER"),
    case("ConvTranspose", x=(2, 3, 3), w=(3, 4, 1), strides=[3], auto_pad="SAME_LOWER"),
    case("ConvTranspose", x=(2, 2, 3, 3, 3), w=(2, 2, 2, 2, 2), strides=[2, 2, 2]),
]

CASES += [
    case("Col2Im", x=(2, 8, 9), shape=np.asarray([4, 4]), block=np.asarray([2, 2])),
    case("Col2Im", x=(2, 4, 12), shape=np.asarray([5, 5]), block=np.asarray([1, 2]), strides=[2, 1],
         pads=[0, 0, 1, 0], batch=False),
    case("Col2Im", x=(2, 4, 4), shape=np.asarray([4, 4]), block=np.asarray([2, 2]), dilations=[2, 2]),
    case("Col2Im", x=(1, 10, 12), shape=np.asarray([3, 4, 5]), block=np.asarray([1, 1, 5]), batch=False),
]  # fmt: skip


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
