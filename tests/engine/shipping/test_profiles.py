"""Files for one provider: the same numbers, without what it lacks; and what would fall back is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import fullgrad_net, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.shipping.profiles import fallbacks, profile_named, profile_of, profiles, reasons
from onnxplain.models import demo_model

Array = np.ndarray[Any, Any]
NAMES = tuple(profiles())

#: Providers that run every operator of the gradient methods below, so that nothing may be left for the CPU.
COMPLETE = ("cpu", "cuda", "tensorrt", "openvino", "web")
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "fullgrad": {},
    "gradcam": {},
    "lrp": {},
    "integrated_gradients": {"steps": 4, "tolerance": None},
    "smoothgrad": {"draws": 3},
}


def run(path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def operators(path: Path) -> set[str]:
    found = set()
    graphs = [onnx.load(path).graph]
    while graphs:
        for n in graphs.pop().node:
            found.add(n.op_type)
            graphs += [a.g for a in n.attribute if a.HasField("g")]
    return found


def test_the_lists_name_operators_that_exist() -> None:
    known = {s.name: s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    assert NAMES == ("cpu", "cuda", "tensorrt", "openvino", "coreml", "web")
    for profile in profiles().values():
        assert profile.source
        assert profile.version
        assert profile.provider in onnxruntime.get_all_providers()
        for operator in profile.operators or ():
            assert operator in known, f"{profile.name} names {operator}"
        for entry in profile.without:
            operator, _, result = entry.partition("/")
            assert result in [o.name for o in known[operator].outputs], f"{profile.name} names {entry}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_the_same_numbers_for_every_provider(method: str, name: str, tmp_path: Path) -> None:
    """The demo network has ties at its max-poolings: the pictures' background is one colour."""
    explainer = ox.compile(demo_model(), method=method, threads=1, **METHODS[method])
    x = ox.demo_input()[:3]
    feeds = {"image": x, "target": np.array([-1, 3, 5])}
    expected = run(explainer.save(tmp_path / "any.onnx"), feeds)
    path = explainer.save(tmp_path / f"{name}.onnx", profile=name)
    onnx.checker.check_model(str(path), full_check=True)
    assert {p.key: p.value for p in onnx.load(path).metadata_props}["onnxplain.profile"] == name
    found = run(path, feeds)
    assert list(found) == list(expected)
    for key, wanted in expected.items():
        # Other forms are exact, but for Core ML's division in the place of a reciprocal, and for the fast forms' sums.
        # A residual is rounding alone, of scores of about ten.
        scale = 10.0 if key == "residual" else np.abs(wanted).max()
        np.testing.assert_allclose(found[key], wanted, rtol=1e-5, atol=2e-6 * scale, err_msg=key)
    left = fallbacks(explainer.ship(profile=name), profile_named(name))
    if name in COMPLETE:
        assert {f.operator for f in left} <= {"Loop", "ConstantOfShape"}, "loops stay with the CPU in a browser"
    else:
        assert {"Greater", "Abs", "Min", "Sum", "Neg", "Reciprocal", "ScatterElements", "Flatten"}.isdisjoint(
            operators(path)
        )


def test_what_falls_back_is_told_with_names() -> None:
    nodes = [node("Softplus", "x", "s"), node("Erf", "s", "e"), node("Selu", "e", "y")]
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]})
    shipped = ox.compile(proto, method="gradient", threads=1).ship(profile="web")
    left = {f.operator: f for f in fallbacks(shipped, profile_named("web"))}
    assert left["Selu"].nodes == ("y_node",)
    assert left["Softplus"].nodes == ("s_node",)
    assert "Erf" not in left
    assert fallbacks(shipped, profile_named("cpu")) == []


def test_a_maximum_with_its_places_falls_back_where_they_are_not_returned() -> None:
    proto, _ = fullgrad_net()
    shipped = ox.compile(proto, method="gradient", threads=1).ship()
    pooled = any(n.op_type == "MaxPool" and len(n.outputs) > 1 for n in shipped.graph)
    found = {f.operator for f in fallbacks(shipped, profile_named("tensorrt"))}
    assert ("MaxPool/Indices" in found) == pooled
    demo = ox.compile(demo_model(), method="gradient", threads=1)
    assert {f.operator: f.count for f in fallbacks(demo.ship(), profile_named("tensorrt"))} == {"MaxPool/Indices": 2}
    assert fallbacks(demo.ship(profile="tensorrt"), profile_named("tensorrt")) == []


def test_fast_forms_are_for_providers_that_compute_them(tmp_path: Path) -> None:
    explainer = ox.compile(demo_model(), method="gradient", threads=1)

    def steep(path: Path) -> bool:
        return "HardSigmoid" in operators(path)

    assert not steep(explainer.save(tmp_path / "a.onnx"))
    assert steep(explainer.save(tmp_path / "b.onnx", portable=False))
    for name in NAMES:
        assert steep(explainer.save(tmp_path / "c.onnx", profile=name)) == (name in ("cpu", "cuda"))
    assert not steep(explainer.save(tmp_path / "d.onnx", profile="cpu", portable=True))
    with pytest.raises(OptionError, match=r"openvino is not known to compute rightly; they are for cpu, cuda"):
        explainer.save(tmp_path / "e.onnx", profile="openvino", portable=False)


def test_the_profile_given_at_first_holds_for_files(tmp_path: Path) -> None:
    explainer = ox.compile(demo_model(), method="gradient", threads=1, profile="web")
    fast = {"HardSigmoid", "Tile"}  # gates and pooling that are onnxruntime's alone
    assert fast.isdisjoint(operators(explainer.save(tmp_path / "a.onnx")))
    assert fast <= operators(explainer.save(tmp_path / "b.onnx", profile="cuda"))
    plain = ox.explain(demo_model(), ox.demo_input()[:1], method="gradient", target=3, threads=1)
    e = explainer(ox.demo_input()[:1], target=3)
    np.testing.assert_allclose(e.attributions["image"], plain.attributions["image"], rtol=1e-5, atol=1e-6)


def test_the_provider_that_runs_decides_the_forms_in_the_process() -> None:
    """OpenVINO computes the fast gates wrongly and says nothing: they may not reach it."""
    assert not profile_of(["CPUExecutionProvider"]).portable
    assert not profile_of([("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]).portable
    assert not profile_of(["reference"]).portable
    assert profile_of(["OpenVINOExecutionProvider", "CPUExecutionProvider"]).portable
    assert profile_of(["MIGraphXExecutionProvider"]).portable
    assert profile_of(["MIGraphXExecutionProvider"]).lacks == frozenset()


def test_an_unknown_profile() -> None:
    with pytest.raises(OptionError, match="profile 'gpu' is not known; choose one of cpu, cuda"):
        ox.compile(demo_model(), method="gradient", profile="gpu")


def test_why_the_cpu_ran_it_is_on_every_result() -> None:
    found = reasons({"Unique": 1, "Shape": 2}, profile_named("cuda"))
    assert found["Unique"]["nodes"] == 1
    assert "CUDAExecutionProvider does not run this operator (onnxruntime, docs/OperatorKernels.md" in str(
        found["Unique"]
    )
    assert "left it to the CPU" in str(found["Shape"]["why"])
    explainer = ox.compile(demo_model(), method="gradient", threads=1)
    explainer.program().session.absent["CUDAExecutionProvider"] = "libcublasLt.so.13 is missing"
    e = explainer(ox.demo_input()[:1])
    assert (
        "CUDAExecutionProvider did not load (libcublasLt.so.13 is missing); it ran on CPUExecutionProvider" in e.notes
    )
    assert e.provenance["fell_back"] == {}
