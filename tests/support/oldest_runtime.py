"""What onnxruntime 1.19.2, the oldest that is supported, does not do: tests that fail on it for that reason alone."""

from __future__ import annotations

import re
import sys

import pytest

VERSION = "1.19.2"

#: What the test's name holds, and what the runtime does. Each of them fails, or this table is wrong.
DEFECTS = {
    r"test_rule\[Reduce(\w+-absent|L2|LogSum)-noop": "fails on a reduction over no axes, or leaves out the power or logarithm",
    r"test_deformable\.py::test_rule\[DeformConv": "has no kernel of DeformConv",
    r"test_rule\[MaxRoiPool|test_of_elements_that_are_equally_large_one_has_it_all": "fails on a Scan with open sizes",
    r"test_rule\[STFT-18\(x=2x12x2,step=_,window=4,onesided=0\)": "errs on STFT of complex signals",
    r"test_(unrolled|scan)\[RNN\(activations=\[HardSigmoid\],initial\)": "takes other defaults for an RNN's HardSigmoid",
    r"test_max_pool_of_tiles\[MaxPool-18\(x=2x3x6x": "gives no index for a window in which all is minus infinity",
}
#: Operators and forms of opsets that it does not load.
NEWER = r"\[[\w.:]+-2[2-9]\(|test_far_out\[Swish\]"


def mark(items: list[pytest.Item]) -> None:
    """On that runtime, and on no other: leave out what it does not load, and expect what fails."""
    running = sys.modules.get("onnxruntime")
    if running is None or getattr(running, "__version__", "") != VERSION:
        return
    for item in items:
        if re.search(NEWER, item.nodeid):
            item.add_marker(pytest.mark.skip(reason=f"onnxruntime {VERSION} loads no opset above 21"))
        for pattern, reason in DEFECTS.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.xfail(strict=True, reason=f"onnxruntime {VERSION} {reason}"))
