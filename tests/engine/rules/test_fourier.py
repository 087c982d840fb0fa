"""Rules of DFT and STFT: both directions, half spectra, signals cut and padded, real and complex."""

from __future__ import annotations

import numpy as np
from rule_cases import Case, case, check, parametrize


def number(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(value, np.int64)


CASES = [
    *(case("DFT", x=(2, 6, c), opset=17, inverse=i) for c in (1, 2) for i in (0, 1)),
    case("DFT", x=(2, 6, 1), opset=17, onesided=1),
    case("DFT", x=(2, 3, 5, 2), opset=17, axis=2),
    case("DFT", x=(2, 6, 1), n=number(8), opset=17),
    case("DFT", x=(2, 6, 2), n=number(4), opset=17, inverse=1),
    case("DFT", x=(2, 6, 1), n=number(9), opset=17, onesided=1),
    case("DFT", x=(2, 5, 2), opset=20),
    case("DFT", x=(2, 5, 3, 1), n=None, axis=number(1), opset=20, onesided=1),
    case("DFT", x=(2, 5, 3, 2), n=number(4), axis=number(-2), opset=20, inverse=1),
    case("DFT", x=(2, 4, 2), opset=20, inverse=1, onesided=1, runtime=False),
    case("DFT", x=(2, 4, 2), n=number(7), opset=20, inverse=1, onesided=1, runtime=False),
    case("STFT", x=(2, 16, 1), step=number(4), window=(8,), onesided=1),
    case("STFT", x=(2, 16, 1), step=number(3), window=None, length=number(6), onesided=1),
    case("STFT", x=(2, 17, 1), step=number(5), window=(7,), length=number(7), onesided=0),
    case("STFT", x=(2, 12, 2), step=number(4), window=(4,), onesided=0),
]


@parametrize(CASES)
def test_rule(case: Case) -> None:
    check(case)
