"""Sanity checks: what ignores the model fails, no intervention is a similarity of 1, and trained nets behave as in the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import assets, model, node

import onnxplain as ox
from onnxplain.engine.errors import OptionError
from onnxplain.engine.evaluation.data import as_dataset
from onnxplain.engine.evaluation.evaluate import explained
from onnxplain.engine.evaluation.randomise import randomised
from onnxplain.engine.evaluation.sanity import other_classes, sanity, signed_map
from onnxplain.engine.evaluation.sanity_report import SanityReport, SanityResult
from onnxplain.engine.evaluation.scorer import Scorer
from onnxplain.engine.evaluation.similarity import SIMILARITIES

pytest.importorskip("skimage", reason="needs the evaluate extra")

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def net(classes: int = 4) -> ox.Model:
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.normal(0, 0.4, (8, 2, 3, 3)), "b1": rng.normal(0, 0.1, 8), "w2": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "w3": rng.normal(0, 0.1, (8 * 100, classes)),
    }  # fmt: skip
    nodes = [
        node("Conv", "x w1 b1", "z1", pads=[1, 1, 1, 1]), node("Relu", "z1", "a1"),
        node("Conv", "a1 w2", "z2", pads=[1, 1, 1, 1]), node("Relu", "z2", "a2"),
        node("Flatten", "a2", "f"), node("MatMul", "f w3", "y"),
    ]  # fmt: skip
    return ox.load(model(nodes, {"x": ["N", 2, 10, 10]}, {"y": ["N", classes]}, weights), threads=1)


X = RNG.standard_normal((8, 2, 10, 10)).astype(np.float32)


def result(values: Array, null: Any, *, check: str = "cascading", method: str = "m") -> SanityResult:
    """A result by one similarity with given numbers ``[D, S, N]`` and nulls."""
    n = values.shape[2]
    nulls = {"spearman": np.broadcast_to(np.asarray(null, dtype=float), (n,)).copy()}
    steps = [str(i) for i in range(values.shape[1])]
    return SanityResult(method, {}, check, steps, {"spearman": values}, nulls, nulls, True)


# ----- the rule ----------------------------------------------------------------------------------


def test_share_kept_by_hand() -> None:
    values = np.full((2, 3, 10), 0.55)
    e = result(values, 0.1).evidence("spearman")
    assert e.kept == pytest.approx(0.5) and e.low == pytest.approx(0.5) and e.high == pytest.approx(0.5)
    assert e.null_image == pytest.approx(0.1)
    assert e.steps == pytest.approx({"0": 0.55, "1": 0.55, "2": 0.55})


@pytest.mark.parametrize(
    ("similarity", "null", "verdict"),
    [(0.1, 0.1, "pass"), (-0.4, 0.1, "pass"), (0.27, 0.1, "pass"), (0.29, 0.1, "undecided"), (0.54, 0.1, "undecided"),
     (0.56, 0.1, "fail"), (1.0, 0.1, "fail"), (1.0, 1.0, "fail"), (0.94, 0.94, "undecided"), (0.96, 0.96, "fail")],
)  # fmt: skip
def test_verdict_by_rule(similarity: float, null: float, verdict: str) -> None:
    """With no scatter the interval is a point: pass up to a share of 0.2, fail from 0.5 or from a similarity of 0.95."""
    assert result(np.full((1, 2, 10), similarity), null).verdict == verdict


def test_wide_intervals_never_decide() -> None:
    """The mean is at the null, but half of the samples keep everything."""
    values = np.where(np.arange(10) % 2, 0.95, -0.95)[None, None]
    assert result(values, 0.0).verdict == "undecided"
    few = result(np.full((1, 1, 4), 0.0), 0.0)
    assert few.verdict == "undecided" and "4 samples" in few.evidence("spearman").reason


def test_draws_that_disagree_do_not_decide() -> None:
    """All samples move together with a draw of the weights; samples alone would look certain."""
    values = np.stack([np.full((1, 50), 0.6), np.full((1, 50), -0.6)])
    e = result(values, 0.0).evidence("spearman")
    assert e.kept == pytest.approx(0.0) and e.high > 0.5 and e.verdict == "undecided"


def test_undefined_similarities_are_left_out() -> None:
    values = np.full((1, 1, 12), 0.0)
    values[..., :4] = np.nan
    assert result(values, 0.0).verdict == "pass"
    values[..., :9] = np.nan
    assert result(values, 0.0).verdict == "undecided"


def test_a_method_passes_when_both_checks_do() -> None:
    good, bad = np.zeros((1, 1, 9)), np.ones((1, 1, 9))
    middle = np.full((1, 1, 9), 0.4)

    def verdict(*parts: tuple[str, Array]) -> str:
        report = SanityReport([result(v, 0.0, check=c) for c, v in parts], [str(i) for i in range(9)], {})
        return report.verdicts["m"]

    assert verdict(("cascading", good), ("classes", good)) == "pass"
    assert verdict(("cascading", good), ("classes", bad)) == "fail"
    assert verdict(("cascading", good), ("classes", middle)) == "undecided"
    assert verdict(("cascading", good), ("independent", bad)) == "pass", "evidence alone"
    assert verdict(("independent", good)) == "undecided"


# ----- known answers -----------------------------------------------------------------------------


def test_without_an_intervention_every_similarity_is_one() -> None:
    source = net()
    scorer = Scorer(source, head="logit")
    samples = as_dataset(X, scorer)
    classes = scorer.classes(samples.x)
    maps = [explained(m, scorer, samples, classes, "gradient", {}) for m in (source, randomised(source, []))]
    for signed, measure in SIMILARITIES.values():
        pair = [signed_map(case) if signed else case.saliency for case in maps]
        values = measure(*pair)
        np.testing.assert_allclose(values[np.isfinite(values)], 1.0, atol=1e-9)


def test_maps_that_ignore_the_model_fail() -> None:
    report = sanity(net(), X, methods=["edges", "random"], draws=2)
    assert report.verdicts == {"edges": "fail", "random": "fail"}
    for r in report.results:
        np.testing.assert_array_equal(r.values["spearman_absolute"], 1.0)
    assert report.result("edges", "cascading").evidence("spearman").null_image < 0.5
    assert report.ok, "they are there to fail"


def test_a_gradient_passes_and_an_input_that_only_the_picture_makes_does_not() -> None:
    report = sanity(net(), X, methods=["gradient", "edges"], similarities=["spearman", "spearman_absolute"])
    assert report.verdicts == {"gradient": "pass", "edges": "fail"}
    steps = report.result("gradient", "cascading").evidence("spearman").steps
    assert list(steps) == ["y_node", "z2_node", "z1_node"]
    assert report.result("gradient", "classes").steps == ["random", "second", "lowest"]


def test_signed_map_undoes_the_magnitude_only() -> None:
    source = net()
    scorer = Scorer(source, head="logit")
    samples = as_dataset(X, scorer)
    classes = scorer.classes(samples.x)
    case = explained(source, scorer, samples, classes, "gradient", {"reduction": "max_abs"})
    np.testing.assert_allclose(signed_map(case), case.attribution.sum(axis=1), rtol=1e-6)
    full = explained(source, scorer, samples, classes, "fullgrad", {})
    np.testing.assert_allclose(signed_map(full), full.saliency)


def test_targets_are_those_of_the_clean_model() -> None:
    """One linear layer: the gradient of a fixed class by fresh weights is that column of the fresh weights."""
    w = RNG.normal(size=(6, 3))
    proto = model([node("MatMul", "x w", "y")], {"x": ["N", 6]}, {"y": ["N", 3]}, {"w": w})
    x = RNG.standard_normal((7, 6)).astype(np.float32)
    report = sanity(proto, x, methods=["gradient"], checks=["cascading"], similarities=["cosine"], draws=1)
    classes = (x @ w.astype(np.float32)).argmax(axis=1)
    assert report.provenance["classes"] == classes.tolist()
    values = report.result("gradient", "cascading").values["cosine"][0, 0]
    for k in set(classes.tolist()):
        assert np.ptp(values[classes == k]) < 1e-6, (
            "the same column for all samples of a class, whatever they answer now"
        )


def test_other_classes_by_hand() -> None:
    scores = np.array([[5.0, 1.0, 3.0, 4.0], [0.0, 9.0, -2.0, 8.0]])
    found = dict(other_classes(scores, np.array([0, 1]), seed=0))
    assert found["second"].tolist() == [3, 3]
    assert found["lowest"].tolist() == [1, 2]
    assert (found["random"] != [0, 1]).all() and (found["random"] < 4).all()
    two = dict(other_classes(scores[:, :2], np.array([0, 0]), seed=0))
    assert list(two) == ["second"] and two["second"].tolist() == [1, 1]
    assert dict(other_classes(scores[:, :1], np.array([0, 0]), seed=0)) == {}


def test_a_class_below_the_others_that_is_explained_all_the_same() -> None:
    found = dict(other_classes(np.array([[1.0, 2.0, 3.0]]), np.array([0]), seed=0))
    assert found["second"].tolist() == [2] and found["lowest"].tolist() == [1]


# ----- storing -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_report_and_files(tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ["gradient"], "similarities": ["spearman", "cosine"], "draws": 2, "seed": 4}
    a, b = sanity(net(), X, **options), sanity(net(), X, **options)
    assert a.to_dict() == b.to_dict()
    for suffix in ("csv", "json"):
        files = [report.save(tmp_path / f"{i}.{suffix}").read_bytes() for i, report in enumerate((a, b))]
        assert files[0] == files[1]
    lines = (tmp_path / "0.csv").read_text().splitlines()
    assert lines[0] == "method,check,similarity,step,draw,sample,value"
    # per similarity: 2 draws x 3 layers twice, 3 classes, and two nulls for each of 3 checks; 8 samples each
    assert len(lines) - 1 == 2 * 8 * (2 * 3 + 2 * 3 + 3 + 2 * 3)
    assert sanity(net(), X, **{**options, "seed": 5}).to_dict() != a.to_dict()


def test_results_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"methods": ["gradient"], "similarities": ["spearman"], "draws": 1, "folder": tmp_path}
    first = sanity(net(), X, **options)
    import onnxplain.engine.evaluation.sanity as module

    monkeypatch.setattr(module, "explained", lambda *_: pytest.fail("computed again"))
    assert sanity(net(), X, **options).to_dict() == first.to_dict()


def test_progress_counts_up_to_the_end() -> None:
    told: list[tuple[int, int, str]] = []
    sanity(net(), X, methods=["gradient"], similarities=["cosine"], draws=1, progress=lambda *t: told.append(t))
    done = [d for d, _, _ in told]
    assert done == sorted(done) and done[-1] == told[-1][1]


def test_bad_requests() -> None:
    with pytest.raises(OptionError, match="checks='weights'"):
        sanity(net(), X, checks=["weights"])
    with pytest.raises(OptionError, match="similarities='dice'"):
        sanity(net(), X, similarities=["dice"])
    with pytest.raises(OptionError, match="at least one"):
        sanity(net(), X, draws=0)
    with pytest.raises(OptionError, match="one number only"):
        sanity(net(classes=1), X, methods=["gradient"], checks=["classes"])


# ----- trained networks --------------------------------------------------------------------------


def trained(name: str, methods: Any, count: int = 60, **options: Any) -> SanityReport:
    folder = assets()
    if folder is None or not (folder / name).exists():
        pytest.skip("the trained development networks are not here")
    with np.load(folder / "data" / "fmnist_test.npz") as file:
        x = (file["x"][:count] / 255).astype(np.float32)
    chosen = {"similarities": ["spearman", "spearman_absolute"], "draws": 2, "checks": ["cascading", "classes"]}
    return sanity(ox.load(folder / name, threads=1), x, methods=methods, **{**chosen, **options})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fmnist-vgg-small.onnx", "fmnist-resnet-bn.onnx"])
def test_guided_backprop_stays_where_the_gradient_falls(name: str) -> None:
    """The direction of the ResNet-50 numbers: .996 and .986 against .329 and -.004 after the layers at the top."""
    report = trained(name, ["gradient", "guided_backprop"])
    own = list(report.result("gradient", "cascading").evidence("spearman").steps.values())
    guided = list(report.result("guided_backprop", "cascading").evidence("spearman").steps.values())
    # The head's own draw leaves a correlation of either sign; below it nothing is left. 60 samples, 784 places.
    assert abs(own[0]) < 0.35
    assert max(map(abs, own[1:])) < 0.06
    assert guided[0] > 0.9 and guided[1] > 0.8
    assert report.verdicts == {"gradient": "pass", "guided_backprop": "fail"}
    classes = report.result("guided_backprop", "classes").evidence("spearman").steps
    assert min(classes.values()) > 0.8, "nearly the same map whatever class is asked for"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fmnist-vgg-small.onnx", "fmnist-resnet-bn.onnx"])
@pytest.mark.parametrize(
    ("method", "positive", "signed"),
    [("fullgrad", "pos", "signed"), ("gradcam", "pos", "signed"), ("gradcam", "abs", "signed")],
)
def test_positive_variants_stay_more_alike(name: str, method: str, positive: str, signed: str) -> None:
    """Khakzar et al. 2020: positive aggregation makes maps insensitive to weights and to the class."""
    means = []
    for sign in (positive, signed):
        report = trained(name, {method: {"sign": sign}})
        means.append([
            np.mean(list(report.result(method, check).evidence("spearman").steps.values()))
            for check in ("cascading", "classes")
        ])  # fmt: skip
    assert means[0][0] > means[1][0] + 0.1
    assert means[0][1] > means[1][1] + 0.1


@pytest.mark.slow
def test_magnitudes_that_stay_are_remarked() -> None:
    """Input times gradient: dark places are dark in every net's map, so magnitudes stay alike while signs do not."""
    report = trained("fmnist-vgg-small.onnx", ["input_x_gradient"], count=30)
    assert report.verdicts == {"input_x_gradient": "pass"}
    assert any("magnitudes" in line for line in report.remarks)
