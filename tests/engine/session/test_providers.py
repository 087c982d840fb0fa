"""Names of execution providers: short, full, with options, unknown, mixed."""

from __future__ import annotations

from typing import Any

import pytest

from onnxplain.engine.errors import OptionError
from onnxplain.engine.session.providers import REFERENCE, SHORT, check_available, resolve

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [CPU]),
        ("cpu", [CPU]),
        ("CUDA", [CUDA]),
        ("cuda, cpu", [CUDA, CPU]),
        ([CUDA, "cpu"], [CUDA, CPU]),
        ([("cuda", {"device_id": 1}), "cpu"], [(CUDA, {"device_id": 1}), CPU]),
        ("MyOwnExecutionProvider", ["MyOwnExecutionProvider"]),
        ("reference", [REFERENCE]),
    ],
)
def test_names(given: Any, expected: list[Any]) -> None:
    assert resolve(given) == expected


@pytest.mark.parametrize("given", [[], "reference,cpu", ["cuda", "reference"], [3], [("cuda",)], [("cuda", 1)], [None]])
def test_what_is_no_list_of_providers(given: Any) -> None:
    with pytest.raises(OptionError):
        resolve(given)


def test_short_names_are_those_of_the_runtime() -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs a runtime")
    known = set(runtime.get_all_providers())
    assert {v for k, v in SHORT.items() if k in ("cpu", "cuda", "tensorrt", "openvino", "coreml", "directml")} <= known


def test_unknown_providers_are_refused_with_what_there_is() -> None:
    check_available([CPU, (CUDA, {})], [CUDA, CPU])
    with pytest.raises(OptionError, match=r"provider 'cuda' is not part .* which has: cpu, Azure"):
        check_available([CUDA], [CPU, "AzureExecutionProvider"])
    with pytest.raises(OptionError, match="provider 'cdua'"):
        check_available(["cdua"], [CPU])
