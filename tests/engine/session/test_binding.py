"""Arrays that stay on the device between runs: the numbers are those of runs by names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxplain.engine.errors import SessionError
from onnxplain.engine.session.binding import Binding, Held
from onnxplain.engine.session.providers import REFERENCE, device_of, resolve
from onnxplain.engine.session.session import Session

KERNEL = np.random.default_rng(3).standard_normal((4, 4)).astype(np.float32) / 2
STATE = np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)
STEP = np.random.default_rng(5).standard_normal((3, 4)).astype(np.float32)


def recurrence() -> ir.Model:
    """``next = tanh(state @ kernel) + step`` and the sum of it."""
    nodes = [
        helper.make_node("MatMul", ["state", "kernel"], ["turned"]),
        helper.make_node("Tanh", ["turned"], ["bent"]),
        helper.make_node("Add", ["bent", "step"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["sum"], keepdims=0),
    ]
    one = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("state", "step", "next")]
    total = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])
    kernel = helper.make_tensor("kernel", TensorProto.FLOAT, [4, 4], KERNEL.tobytes(), raw=True)
    graph = helper.make_graph(nodes, "recurrence", one[:2], [one[2], total], [kernel])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))


def unrolled(times: int) -> np.ndarray[Any, Any]:
    state = STATE.astype(np.float64)
    for _ in range(times):
        state = np.tanh(state @ KERNEL.astype(np.float64)) + STEP
    return state


@pytest.fixture(params=["cpu", REFERENCE])
def binding(request: pytest.FixtureRequest) -> Binding:
    return Binding(Session(recurrence(), request.param, threads=1), resolve(request.param))


def test_a_result_that_is_held_is_the_next_run_s_input(binding: Binding) -> None:
    state = binding.put(STATE)
    for times in (1, 2, 3):
        found = binding.run({"state": state, "step": STEP}, ["next", "sum"], ["next"])
        assert isinstance(found["next"], Held) and isinstance(found["sum"], np.ndarray)
        state = found["next"]
        np.testing.assert_allclose(state.array(), unrolled(times), rtol=1e-5, atol=1e-6)  # float32 against float64
        np.testing.assert_allclose(found["sum"], unrolled(times).sum(), rtol=1e-5)


def test_what_is_held_is_a_copy(binding: Binding) -> None:
    given = STATE.copy()
    state = binding.put(given)
    given[:] = 7
    taken = state.array()
    taken[:] = 9
    found = binding.run({"state": state, "step": STEP}, ["next"])
    np.testing.assert_allclose(found["next"], unrolled(1), rtol=1e-5, atol=1e-6)


def test_inputs_in_another_order_of_memory(binding: Binding) -> None:
    found = binding.run({"state": np.asfortranarray(STATE), "step": np.asfortranarray(STEP)}, ["next"])
    np.testing.assert_allclose(found["next"], unrolled(1), rtol=1e-5, atol=1e-6)


def test_errors_are_those_of_a_run_by_names() -> None:
    binding = Binding(Session(recurrence(), "cpu", threads=1), resolve("cpu"))
    with pytest.raises(SessionError, match="the runtime failed on the rewritten graph"):
        binding.run({"state": np.zeros((3, 5), np.float32), "step": STEP}, ["next"])


@pytest.mark.parametrize(
    ("loaded", "asked", "device"),
    [
        (["CPUExecutionProvider"], "cpu", ("cpu", 0)),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda:device_id=1,cpu", ("cuda", 1)),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], [("cuda", {"device_id": 2})], ("cuda", 2)),
        (["TensorrtExecutionProvider", "CUDAExecutionProvider"], "tensorrt,cuda:device_id=3", ("cuda", 0)),
        (["CPUExecutionProvider"], "cuda:device_id=1,cpu", ("cpu", 0)),
        (["OpenVINOExecutionProvider", "CPUExecutionProvider"], "openvino", ("cpu", 0)),
    ],
)
def test_device_of_the_provider_that_loaded_first(loaded: list[str], asked: Any, device: tuple[str, int]) -> None:
    assert device_of(loaded, resolve(asked)) == device
