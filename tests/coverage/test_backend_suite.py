"""Gradients of every operator that ONNX's own suite tests, against differences of the reference evaluator.

What :mod:`backend_suite` grades is held against these: nothing may be wrong, nothing refused that is not in
``refusals.toml`` with its reason, nothing left ungraded that is not in ``ungraded.toml`` with its reason, and the
number of operators that pass in full is pinned: when it grows, the pin goes up with it. The suite's whole models,
PyTorch's of opset 6 among them, are graded alike.
"""

from __future__ import annotations

import functools

import onnx
import pytest
from backend_models import SETTINGS, Sample, Setting, exported, samples
from backend_suite import Grade, grade
from ungraded import Ungraded, ungraded

from onnxplain.engine.catalogue import refusals

pytestmark = pytest.mark.slow

#: Operators that the standard tags differentiable and that pass in full, per setting, and those without a tag.
PINNED = {("shipped", True): 117, ("frozen", True): 117, ("shipped", False): 17, ("frozen", False): 17}

#: float32 gradients of onnxruntime that are known to differ, with the reason.
RUNTIME_DIFFERS = {
    "test_maxunpool_export_with_output_shape": "onnxruntime places the elements otherwise when the shape is given",
}


@functools.cache
def grades(operator: str) -> tuple[Grade, ...]:
    """All tests of one operator, in both settings."""
    return tuple(g for sample in samples()[operator] for g in grade(sample))


#: Operators without a tag of their own that have a derivative, all of which pass in full.
UNTAGGED = {
    *("Attention", "DeformConv", "DequantizeLinear", "DynamicQuantizeLinear", "LayerNormalization", "Loop"),
    *("OptionalGetElement", "RMSNormalization", "Range", "ReverseSequence", "RoiAlign", "RotaryEmbedding", "Scan"),
    *("Upsample", "ai.onnx.ml::ArrayFeatureExtractor", "ai.onnx.preview::FlexAttention"),
}

#: Suites of whole models.
SUITES = ("pytorch-operator", "pytorch-converted", "simple")


@functools.cache
def grades_of_model(name: str) -> tuple[Grade, ...]:
    """One whole model, in both settings."""
    return tuple(grade(_models()[name]))


@functools.cache
def _models() -> dict[str, Sample]:
    return {s.operator: s for suite in SUITES for s in exported(suite)}


def _listed(found: Grade) -> bool:
    return any(r.covers(found.operator, found.reason) for r in refusals())


@functools.cache
def _left_out() -> tuple[Ungraded, ...]:
    return tuple(ungraded())


@pytest.mark.parametrize("operator", sorted(samples()))
def test_no_gradient_is_wrong_and_no_refusal_is_unlisted(operator: str) -> None:
    _hold(grades(operator))


@pytest.mark.parametrize("name", sorted(_models()))
def test_whole_models(name: str) -> None:
    _hold(grades_of_model(name))


def _hold(found: tuple[Grade, ...]) -> None:
    wrong = [g for g in found if g.verdict == "wrong"]
    assert not wrong, "\n".join(f"{g.name} ({g.setting}): {g.reason}" for g in wrong)
    unlisted = [g for g in found if g.verdict in ("refused", "blocked") and not _listed(g)]
    assert not unlisted, "\n".join(f"{g.name} ({g.setting}): {g.reason}" for g in unlisted)
    left = [g for g in found if g.verdict == "not gradable"]
    left = [g for g in left if not any(u.covers(g.operator, g.setting, g.reason) for u in _left_out())]
    assert not left, "not graded, without a reason: " + "\n".join(f"{g.name} ({g.setting}): {g.reason}" for g in left)
    differs = [g for g in found if g.runtime.startswith(("differs", "assertion")) and g.name not in RUNTIME_DIFFERS]
    assert not differs, "\n".join(f"{g.name} ({g.setting}): {g.runtime}" for g in differs)


def _tagged(operator: str) -> bool:
    """Whether the standard tags an input and an output of the newest form differentiable."""
    domain, _, name = operator.rpartition("::")
    schema = onnx.defs.get_schema(name, domain)
    wanted = onnx.defs.OpSchema.DifferentiationCategory.Differentiable
    return all(any(p.differentiation_category == wanted for p in part) for part in (schema.inputs, schema.outputs))


def _standing(operator: str, setting: Setting) -> str:
    """``full``, ``part`` or ``none`` of the tests that have a derivative; empty where none has one."""
    found = [g for g in grades(operator) if g.setting == setting and g.verdict not in ("not gradable", "zero")]
    chosen = [g for g in found if not g.aside] or found
    passed = sum(g.verdict == "pass" for g in chosen)
    if not chosen:
        return ""
    return "full" if passed == len(chosen) else "part" if passed else "none"


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_operator_with_a_derivative_passes_in_full(setting: Setting) -> None:
    """Tagged or not; what is refused has its reason in the table, and no derivative by the standard's tags."""
    standing = {o: _standing(o, setting) for o in samples() if _tagged(o) or o in UNTAGGED}
    assert {o for o, s in standing.items() if s not in ("full", "")} == set()
    assert {o for o, s in standing.items() if s == "full"} >= UNTAGGED


def test_operators_that_pass_in_full_only_grow(capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[tuple[str, bool], int] = {}
    lines = []
    for setting in SETTINGS:
        for tagged in (True, False):
            standing = {o: _standing(o, setting) for o in samples() if _tagged(o) is tagged}
            full = counts[setting, tagged] = sum(s == "full" for s in standing.values())
            part = sorted(o for o, s in standing.items() if s == "part")
            none = sorted(o for o, s in standing.items() if s == "none")
            kind = "tagged differentiable" if tagged else "without a tag"
            lines.append(f"{setting}, {kind}: {full} in full, in part: {', '.join(part)}; not: {', '.join(none)}")
    with capsys.disabled():
        print("", *lines, sep="\n")  # noqa: T201 - the figure that this test is for
    for key, pinned in PINNED.items():
        assert counts[key] >= pinned, f"{key}: {counts[key]} operators pass in full, {pinned} did before"


def _everything() -> list[Grade]:
    return [g for o in samples() for g in grades(o)] + [g for m in _models() for g in grades_of_model(m)]


def test_every_lasting_refusal_happens() -> None:
    said = [(g.operator, g.reason) for g in _everything() if g.verdict in ("refused", "blocked")]
    idle = [r for r in refusals() if not r.pending and not r.beyond_suite and not any(r.covers(*s) for s in said)]
    assert not idle, f"refusals.toml lists what is served: {idle}"


def test_what_is_listed_as_not_graded_is_not() -> None:
    left = [(g.operator, g.setting, g.reason) for g in _everything() if g.verdict == "not gradable"]
    idle = [u for u in _left_out() if not any(u.covers(*g) for g in left)]
    assert not idle, f"ungraded.toml lists what is graded: {idle}"


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxplain.engine.rules import load_rules
    from onnxplain.engine.rules.table import GRADIENT, Entry

    load_rules()
    entry = GRADIENT.find("", "Tanh", 18)
    assert entry is not None
    scaled = Entry(lambda op, node, dy: [op.Mul(entry.rule(op, node, dy)[0], 1.001)], 1)
    monkeypatch.setitem(GRADIENT._entries, ("", "Tanh"), [scaled])
    (sample,) = (s for s in samples()["Tanh"] if s.name == "test_tanh")
    assert {g.verdict for g in grade(sample, runtime=False)} == {"wrong"}
