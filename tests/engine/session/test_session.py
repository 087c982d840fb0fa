"""Sessions: what runs is what was asked for, errors are this package's, results repeat bit by bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_models import fullgrad_net, model, node, simple_model

from onnxplain.engine.errors import OptionError, SessionError
from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.model import read_model
from onnxplain.engine.session import session as session_module
from onnxplain.engine.session.session import OutOfTimeError, Session, time_limit

X = np.array([[1.0, -2.0]], np.float32)


def canonical(proto: onnx.ModelProto) -> ir.Model:
    return canonicalise(read_model(proto))


class Fake:
    """A runtime whose sessions have the providers that they are told to have, and fail as told."""

    def __init__(self, has: list[str], error: Exception | None = None, available: list[str] | None = None) -> None:
        self.has, self.error = has, error
        self.available = available or ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self.options: Any = None

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def get_available_providers(self) -> list[str]:
        return self.available

    def InferenceSession(self, data: bytes, options: Any, providers: list[Any], **more: Any) -> Any:
        self.options = options
        self.providers = providers
        return SimpleNamespace(get_providers=lambda: self.has, run=self._run)

    def _run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        if self.error is not None:
            raise self.error
        return [np.zeros(1)] * len(names)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(*arguments: Any, **named: Any) -> Fake:
        fake = Fake(*arguments, **named)
        monkeypatch.setattr(session_module, "import_runtime", lambda: fake)
        return fake

    return use


# ----- providers ------------------------------------------------------------------------------------


def test_a_provider_that_does_not_load_is_an_error(faked: Any) -> None:
    faked(["CPUExecutionProvider"])
    for providers in ("cuda", ["CUDAExecutionProvider"], [("cuda", {"device_id": 0})]):
        with pytest.raises(
            SessionError, match=r"CUDAExecutionProvider was asked for but did not load.*onnxplain doctor"
        ):
            Session(canonical(simple_model()), providers)


def test_a_fall_back_that_was_allowed_is_reported(faked: Any) -> None:
    faked(["CPUExecutionProvider"])
    assert Session(canonical(simple_model()), "cuda,cpu").providers == ["CPUExecutionProvider"]
    faked(["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert Session(canonical(simple_model()), "cuda").providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_provider_that_is_not_built_in(faked: Any) -> None:
    faked(["CPUExecutionProvider"], available=["CPUExecutionProvider"])
    with pytest.raises(OptionError, match="'cuda' is not part of the installed onnxruntime"):
        Session(canonical(simple_model()), "cuda")


def test_threads_reach_the_runtime(faked: Any) -> None:
    fake = faked(["CPUExecutionProvider"])
    Session(canonical(simple_model()), threads=3)
    assert fake.options.intra_op_num_threads == 3


def test_what_ran_is_told() -> None:
    assert Session(canonical(simple_model()), "cpu").providers == ["CPUExecutionProvider"]
    assert Session(canonical(simple_model()), "reference").providers == ["reference"]


# ----- running --------------------------------------------------------------------------------------


@pytest.mark.parametrize("providers", ["cpu", "reference"])
def test_runs(providers: str) -> None:
    session = Session(canonical(simple_model()), providers, threads=1)
    assert (session.inputs, session.outputs) == (["x"], ["y"])
    z = np.maximum(X @ np.array([[1.0, -1.0], [-1.0, 1.0]]) + [1.5, -1.0], 0)
    expected = z @ np.array([[1.1, 1.4], [-0.5, 1.0]]) + [0.0, 2.0]
    # 1e-6: float32 sums of two products.
    np.testing.assert_allclose(session.run({"x": X})["y"], expected, rtol=1e-6)
    assert list(session.run({"x": X}, ["y"])) == ["y"]


@pytest.mark.parametrize("providers", ["cpu", "reference"])
def test_the_same_bytes_twice(providers: str) -> None:
    proto, x = fullgrad_net()
    first, second = (Session(canonical(proto), providers, threads=1).run({"x": x})["logits"] for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("providers", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("feeds", "outputs"),
    [
        ({}, None),
        ({"x": X, "z": X}, None),
        ({"x": X.astype(np.float64)}, None),
        ({"x": np.ones((1, 3), np.float32)}, None),
        ({"x": X}, ["none"]),
    ],
    ids=["none", "unknown", "type", "shape", "output"],
)
def test_what_the_runtime_refuses_is_a_session_error(providers: str, feeds: dict[str, Any], outputs: Any) -> None:
    if providers == "reference" and ("z" in feeds or feeds.get("x", X).dtype == np.float64):
        assert Session(canonical(simple_model()), providers).run(feeds, outputs)  # the evaluator takes both
        return
    with pytest.raises(SessionError):
        Session(canonical(simple_model()), providers).run(feeds, outputs)


def test_a_graph_that_the_runtime_refuses() -> None:
    proto = model([node("Mystery", "x", "y", domain="org.example")], {"x": [1]}, {"y": [1]}, domains=["org.example"])
    for providers in ("cpu", "reference"):
        with pytest.raises(SessionError, match="refuses the"):
            Session(canonical(proto), providers)


def test_long_messages_are_cut(faked: Any) -> None:
    faked(["CPUExecutionProvider"], RuntimeError("word " * 1000 + "\nmore"))
    with pytest.raises(SessionError) as caught:
        Session(canonical(simple_model())).run({"x": X})
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Failed to allocate memory for requested buffer of size 123",
        "std::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUDNN failure: Out of memory",
    ],
)
def test_memory_that_runs_out_is_told_apart(faked: Any, text: str) -> None:
    faked(["CPUExecutionProvider"], RuntimeError(text))
    with pytest.raises(MemoryError):
        Session(canonical(simple_model())).run({"x": X})


def test_what_the_runtime_cannot_compute_in_float64_names_the_way_out() -> None:
    proto, x = fullgrad_net(TensorProto.DOUBLE)
    with pytest.raises(SessionError, match=r"no kernel.*providers=\['reference'\]"):
        Session(canonical(proto), "cpu")
    assert Session(canonical(proto), "reference").run({"x": x})["logits"].dtype == np.float64


def test_nodes_per_provider() -> None:
    counts = Session(canonical(simple_model()), "cpu", threads=1).assignment()
    assert all(k == "CPUExecutionProvider" and v > 0 for k, v in counts.items())
    assert Session(canonical(simple_model()), "reference").assignment() == {}


# ----- models that do not fit into one message ------------------------------------------------------


def test_large_models_go_through_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limit lowered to ten bytes: the same numbers, and nothing left behind."""
    import tempfile

    proto, x = fullgrad_net()
    expected = Session(canonical(proto), threads=1).run({"x": x})["logits"]
    monkeypatch.setattr(session_module, "_PROTO_LIMIT", 10)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sources: list[Any] = []
    plain = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda source, *a, **k: sources.append(source) or plain(source, *a, **k)
    )
    large = canonical(proto)
    found = Session(large, threads=1).run({"x": x})["logits"]
    np.testing.assert_array_equal(found, expected)
    assert isinstance(sources[0], str)
    assert list(tmp_path.iterdir()) == []
    # The model that was handed over still holds its weights: the file is gone.
    assert np.isfinite(large.graph.initializers["w1"].const_value.numpy()).all()  # type: ignore[union-attr]
    np.testing.assert_array_equal(Session(large, threads=1).run({"x": x})["logits"], expected)


# ----- the reference evaluator ------------------------------------------------------------------------


def test_operands_that_are_left_out_stay_left_out() -> None:
    """The evaluator keeps results under their names, those without one under the empty name, which means: nothing."""
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["n", "", "deviation"], name="n_node"),
        helper.make_node("Pad", ["n", "pads", "", "axes"], ["p"]),
        helper.make_node("Mul", ["p", "deviation"], ["y"]),
    ]
    weights = {"scale": np.ones(3), "pads": np.array([1, 0]), "axes": np.array([1])}
    proto = model(nodes, {"x": [2, 3]}, {"y": [2, 4]}, weights)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    expected = Session(canonical(proto), threads=1).run({"x": x})["y"]
    # 1e-5: two implementations of a normalisation in float32.
    np.testing.assert_allclose(
        Session(canonical(proto), "reference").run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6
    )


def test_a_time_limit_stops_the_evaluator_between_nodes() -> None:
    session = Session(canonical(fullgrad_net()[0]), "reference")
    x = np.ones((1, 1, 4, 4), np.float32)
    with time_limit(60):
        assert session.run({"x": x})["logits"].shape == (1, 2)
        with time_limit(-1), pytest.raises(OutOfTimeError, match="too slow"):
            session.run({"x": x})
        session.run({"x": x})  # the outer limit holds again
    session.run({"x": x})


def test_a_provider_with_a_missing_library_is_not_even_tried(faked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime would print pages of log."""
    monkeypatch.setattr(
        session_module, "missing_libraries", lambda *_: {"CUDAExecutionProvider": "libcudnn is missing"}
    )
    fake = faked(["CPUExecutionProvider"])
    session = Session(canonical(simple_model()), [("cuda", {"device_id": 1}), "cpu"])
    assert fake.providers == ["CPUExecutionProvider"]
    assert session.absent == {"CUDAExecutionProvider": "libcudnn is missing"}
    fake = faked(["CPUExecutionProvider"])
    with pytest.raises(SessionError, match=r"did not load: libcudnn is missing; install the CUDA libraries .*gpu-cuda"):
        Session(canonical(simple_model()), "cuda")
    assert not hasattr(fake, "providers")


def test_what_the_cpu_ran_instead(faked: Any) -> None:
    faked(["CUDAExecutionProvider", "CPUExecutionProvider"])
    session = Session(canonical(simple_model()), "cuda,cpu")
    kinds = {"CUDAExecutionProvider": ["Conv", "Conv"], "CPUExecutionProvider": ["Unique", "Shape", "MemcpyToHost"]}
    parts = [
        SimpleNamespace(ep_name=p, get_nodes=lambda ops=ops: [SimpleNamespace(op_type=o) for o in ops])
        for p, ops in kinds.items()
    ]
    session._session.get_provider_graph_assignment_info = lambda: parts
    assert session.assignment() == {"CUDAExecutionProvider": 2, "CPUExecutionProvider": 3}
    assert session.fallen() == {"Unique": 1, "Shape": 1}
    assert Session(canonical(simple_model())).fallen() == {}
