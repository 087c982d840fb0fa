"""Metrics against Quantus 0.6 on the same network in torch: equal where the definition is, and where not, why."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluation_cases import by_method, given, linear, measured
from tiny_models import fullgrad_net

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.case import Case
from onnxplain.engine.evaluation.fills import noisy_linear
from onnxplain.engine.loading import load

torch = pytest.importorskip("torch", reason="needs the torch extra")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus = pytest.importorskip("quantus", reason="needs quantus and pandas")

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

#: What Quantus should not do on its own: rescale maps, take magnitudes, print.
PLAIN = {
    "abs": False,
    "return_aggregate": False,
    "normalise": False,
    "disable_warnings": True,
    "display_progressbar": False,
}


@pytest.fixture(scope="module")
def pair() -> tuple[Case, Any]:
    """A case of four samples, and the network in torch."""
    from torch_twins import twin

    proto, x = fullgrad_net()
    x = np.concatenate([x, 0.5 - x, x[..., ::-1], 0.3 * x])
    return by_method(load(proto, threads=1), x, "input_x_gradient", score="probability"), twin(proto)


def theirs(metric: Any, case: Case, net: Any, **more: Any) -> Any:
    return metric(
        model=net, x_batch=case.x.copy(), y_batch=case.target.copy(), a_batch=case.attribution.astype(np.float64),
        channel_first=True, softmax=more.pop("softmax", True), **more,
    )  # fmt: skip


def case_of(case: Case, attribution: np.ndarray) -> Case:
    return given(case.scorer.model, case.x, attribution)


def test_deletion_is_pixel_flipping(pair: tuple[Case, Any]) -> None:
    """Quantus leaves out the first point, the clean input; the others are the curve of deletion.

    It breaks ties by position, so that the map here has none.
    """
    case, net = pair
    case = replace(case_of(case, np.random.default_rng(0).normal(size=case.x.shape)), scorer=case.scorer)
    flipping = quantus.PixelFlipping(features_in_step=2, perturb_baseline=0.0, **PLAIN)
    want = np.array(theirs(flipping, case, net))
    found = measured(case, "deletion", steps=8).curves["score"][1]
    assert found[:, 1:] == pytest.approx(want, abs=1e-6)


def test_faithfulness_correlation(pair: tuple[Case, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantus draws other subsets for every sample, from the global generator; it is handed ours."""
    case, net = pair
    drawn = iter([generator(0, 6, k).choice(16, size=6, replace=False) for k in range(25) for _ in range(len(case))])
    monkeypatch.setattr(np.random, "choice", lambda *args, **kwargs: next(drawn))
    metric = quantus.FaithfulnessCorrelation(nr_runs=25, subset_size=6, perturb_baseline=0.0, **PLAIN)
    want = theirs(metric, case, net)
    found = measured(case, "faithfulness_correlation", runs=25, share=6 / 16, fill=0.0)
    # Correlations of float32 probabilities' differences.
    assert found.values == pytest.approx(np.array(want), abs=1e-6)


def test_max_sensitivity(pair: tuple[Case, Any]) -> None:
    case, net = pair
    case = by_method(case.scorer.model, case.x, "gradient")
    reach = 0.1 * float(case.x.max() - case.x.min())
    turns = iter(range(8))

    def perturb(arr: np.ndarray, indices: Any, **_: Any) -> np.ndarray:
        step = generator(0, 5, next(turns)).uniform(-reach, reach, case.x.shape[1:])
        return (arr + step.reshape(-1)).astype(np.float32)

    def explain(model: Any, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        points = torch.from_numpy(np.asarray(inputs, dtype=np.float32)).requires_grad_(True)
        return torch.autograd.grad(net(points)[:, 0].sum(), points)[0].numpy()

    metric = quantus.MaxSensitivity(nr_samples=8, perturb_func=perturb, **PLAIN)
    want = theirs(metric, case, net, explain_func=explain)
    assert measured(case, "max_sensitivity", radius=0.1, samples=8).values == pytest.approx(np.array(want), rel=1e-6)


@pytest.mark.parametrize(("name", "metric"), [("complexity", "Complexity"), ("sparseness", "Sparseness")])
def test_complexity_and_sparseness(pair: tuple[Case, Any], name: str, metric: str) -> None:
    case, net = pair
    want = theirs(getattr(quantus, metric)(**{**PLAIN, "abs": True}), case, net)
    sized = given(case.scorer.model, case.x, case.attribution)
    assert measured(sized, name).values == pytest.approx(np.array(want), abs=1e-6)


def test_their_sparseness_depends_on_the_scale(pair: tuple[Case, Any]) -> None:
    """Quantus adds 1e-7 to every attribution, which drowns small ones; a Gini index has no unit."""
    case, net = pair
    small = given(case.scorer.model, case.x, 1e-8 * case.attribution)
    want = np.array(theirs(quantus.Sparseness(**{**PLAIN, "abs": True}), small, net))
    assert measured(small, "sparseness").values == pytest.approx(
        measured(case_of(case, case.attribution), "sparseness").values
    )
    assert np.all(want < 0.8 * measured(small, "sparseness").values)


def masks() -> np.ndarray:
    found = np.zeros((4, 4, 4))
    found[:, 1:3, 0:3] = 1
    return found


def test_localisation(pair: tuple[Case, Any]) -> None:
    case, net = pair
    localised = given(case.scorer.model, case.x, case.attribution, masks=masks())
    mass = theirs(
        quantus.RelevanceMassAccuracy(**PLAIN), positive(localised), net, s_batch=masks()[:, None].astype(bool)
    )
    assert measured(localised, "energy_localisation").values == pytest.approx(np.array(mass), abs=1e-6)
    game = theirs(quantus.PointingGame(**PLAIN), localised, net, s_batch=masks()[:, None].astype(bool))
    assert measured(localised, "pointing_game").values.tolist() == np.array(game, dtype=float).tolist()


def positive(case: Case) -> Case:
    """Quantus divides by the sum of all relevance, whatever its sign; shares need the positive part."""
    return given(case.scorer.model, case.x, np.maximum(case.attribution, 0))


def test_their_pointing_game_counts_all_ties_as_hits(pair: tuple[Case, Any]) -> None:
    """A map without contrast always hits, as every place is its maximum; by lot it hits as often as the object is large."""
    case, net = pair
    levels = np.full_like(case.x, 1.0) * np.arange(1, 5).reshape(4, 1, 1, 1)  # Quantus refuses one value everywhere
    flat = given(case.scorer.model, case.x, levels, masks=masks())
    game = theirs(quantus.PointingGame(**PLAIN), flat, net, s_batch=masks()[:, None].astype(bool))
    assert np.all(np.array(game, dtype=float) == 1)
    hits = [measured(replace(flat, seed=s), "pointing_game").values for s in range(60)]
    assert np.mean(hits) == pytest.approx(6 / 16, abs=0.15)  # 240 draws: a standard deviation of 0.03


def test_noisy_linear_imputation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxplain.engine.evaluation.fills.IMPUTED_NOISE", 0.0)
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 7, 6))
    mask = random.permutation(42).reshape(7, 6) < 20
    from quantus.functions.perturb_func import noisy_linear_imputation

    want = noisy_linear_imputation(x.copy(), np.flatnonzero(mask), noise=0.0)
    assert noisy_linear(x, (1, 2), mask, seed=0) == pytest.approx(np.asarray(want).reshape(x.shape), abs=1e-6)


def test_their_completeness_asks_for_equal_bits(pair: tuple[Case, Any]) -> None:
    """Quantus compares sums of floats with ``==``: DeepLIFT is complete to 1e-5 and fails."""
    case, net = pair
    complete = by_method(case.scorer.model, case.x, "deeplift")
    found = measured(complete, "completeness_error", relative=True).values
    assert np.all(found < 1e-5)
    verdict = theirs(quantus.Completeness(perturb_baseline=0.0, **PLAIN), complete, net, softmax=False)
    assert not np.all(verdict)


def test_their_sensitivity_n_is_another_measure() -> None:
    """Quantus removes features cumulatively in falling order and pairs the whole fall with the last features' sum.

    It does so at one n at a time across samples. On a linear model every subset of features loses what its
    attributions sum to, and the paper's measure is 1; theirs is, too, for the first feature alone.
    """
    from torch_twins import twin

    weights = np.abs(np.random.default_rng(0).normal(size=(1, 4, 4)))
    x = np.random.default_rng(1).uniform(0.5, 1, size=(5, 1, 4, 4))
    case = given(linear(weights), x, x * weights)
    net = twin(case.scorer.model.source.proto)
    assert measured(case, "sensitivity_n").values == pytest.approx(np.ones(5), abs=1e-9)
    metric = quantus.SensitivityN(features_in_step=1, n_max_percentage=0.8, perturb_baseline=0.0, **PLAIN)
    found = np.array(theirs(metric, case, net, softmax=False), dtype=float)
    assert found[0] == pytest.approx(1)
    assert np.abs(found[1:]).max() < 0.9


def test_their_road_counts_right_answers(pair: tuple[Case, Any]) -> None:
    """Quantus' ROAD is the accuracy without the most salient places, 0 or 1 per picture, of the most salient only."""
    case, net = pair
    metric = quantus.ROAD(percentages=[50], noise=0.0, **PLAIN)
    found = theirs(metric, case, net)
    assert set(found) == {50} and found[50] in [k / len(case) for k in range(len(case) + 1)]
