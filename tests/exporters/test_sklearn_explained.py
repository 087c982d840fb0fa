"""Exported scikit-learn models explained: gradients against float64 differences of scikit-learn's own functions.

Trees have no gradient: their refusal, and Shapley values against all subsets, summed naively.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("sklearn", reason="needs the sklearn extra")
pytest.importorskip("skl2onnx", reason="needs the sklearn extra")
from command_line import array, call, refused
from sklearn import (
    cluster,
    compose,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
)
from sklearn.pipeline import make_pipeline

import onnxplain as ox
from onnxplain.engine.errors import BlockedGradientError, UnsupportedNodeError
from onnxplain.exporters import export

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

X = datasets.load_iris().data.astype(np.float32)
THREE = datasets.load_iris().target
TWO = (THREE == 1).astype(int)
REAL = (X @ [0.3, -0.2, 0.5, 0.1] + np.sin(X[:, 0])).astype(np.float64)
#: Near the border of two classes, where probabilities move; off the training data.
ROWS = (X[[52, 68, 77, 83, 119, 133]] + 0.0137).astype(np.float32)


def logistic() -> Any:
    return linear_model.LogisticRegression(max_iter=2000)


def mixed() -> Any:
    return compose.ColumnTransformer(
        [("s", preprocessing.StandardScaler(), [0, 2]), ("m", preprocessing.MinMaxScaler(), [1])],
        remainder="passthrough",
    )


def mlp(kind: Any, **how: Any) -> Any:
    return kind(hidden_layer_sizes=(6,), max_iter=3000, random_state=0, **how)


def kernel(what: Any) -> Any:
    return gaussian_process.GaussianProcessRegressor(what, alpha=0.1, optimizer=None)


G = gaussian_process.kernels
#: Estimator, what it learns, and scikit-learn's smooth function of rows, ``[rows, answers]``.
SMOOTH: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "logistic-two": (logistic, TWO, "predict_proba"),
    "logistic-three": (logistic, THREE, "predict_proba"),
    "linear-svc": (svm.LinearSVC, THREE, "decision_function"),
    "svc-rbf-two": (svm.SVC, TWO, "decision_function"),
    "svc-rbf-three": (svm.SVC, THREE, "decision_function"),
    "svc-poly": (
        lambda: make_pipeline(preprocessing.StandardScaler(), svm.SVC(kernel="poly", coef0=1.0)), TWO, "decision_function",
    ),
    "svc-sigmoid": (lambda: svm.SVC(kernel="sigmoid", gamma=0.01), TWO, "decision_function"),
    "svr": (svm.SVR, REAL, "predict"),
    "ridge": (linear_model.Ridge, REAL, "predict"),
    "poisson": (linear_model.PoissonRegressor, np.abs(REAL), "predict"),
    "one-against-rest": (
        lambda: make_pipeline(
            preprocessing.StandardScaler(), linear_model.SGDClassifier(loss="log_loss", alpha=0.01, random_state=0)
        ),
        THREE,
        "predict_proba",
    ),
    "mlp-classifier": (lambda: mlp(neural_network.MLPClassifier, activation="tanh"), THREE, "predict_proba"),
    "mlp-classifier-two": (lambda: mlp(neural_network.MLPClassifier, activation="logistic"), TWO, "predict_proba"),
    "mlp-regressor": (lambda: mlp(neural_network.MLPRegressor, activation="tanh"), REAL, "predict"),
    "standard": (lambda: make_pipeline(preprocessing.StandardScaler(), logistic()), THREE, "predict_proba"),
    "minmax": (lambda: make_pipeline(preprocessing.MinMaxScaler(), svm.SVR()), REAL, "predict"),
    "normalizer": (lambda: make_pipeline(preprocessing.Normalizer(), svm.SVR()), REAL, "predict"),
    "normalizer-l1": (lambda: make_pipeline(preprocessing.Normalizer("l1"), logistic()), THREE, "predict_proba"),
    "pca": (
        lambda: make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(2), logistic()), THREE, "predict_proba",
    ),
    "kernel-pca": (
        lambda: make_pipeline(decomposition.KernelPCA(2, kernel="rbf", gamma=0.1), linear_model.Ridge()), REAL, "predict",
    ),
    "polynomial": (lambda: make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.Ridge()), REAL, "predict"),
    "columns": (lambda: make_pipeline(mixed(), logistic()), THREE, "predict_proba"),
    "process-rbf": (lambda: kernel(G.RBF(2.0)), REAL, "predict"),
    "process-matern": (lambda: kernel(G.ConstantKernel(2.0) * G.Matern(2.0, nu=1.5)), REAL, "predict"),
    "process-dot": (lambda: kernel(G.DotProduct() + G.WhiteKernel()), REAL, "predict"),
    "naive-bayes": (naive_bayes.GaussianNB, THREE, "predict_proba"),
    "discriminants": (discriminant_analysis.LinearDiscriminantAnalysis, THREE, "predict_proba"),
    "quadratic": (discriminant_analysis.QuadraticDiscriminantAnalysis, THREE, "predict_proba"),
    "mixture": (lambda: mixture.GaussianMixture(2, random_state=0), None, "predict_proba"),
    "kmeans": (lambda: cluster.KMeans(3, n_init=1, random_state=0), None, "transform"),
}  # fmt: skip


def fitted(name: str) -> tuple[Any, str]:
    make, y, function = SMOOTH[name]
    data = X.astype(np.float64)
    return (make().fit(data) if y is None else make().fit(data, y)), function


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_scikit_learn_and_complete(name: str, tmp_path: Path) -> None:
    model, function = fitted(name)
    report = export(model, ROWS, tmp_path / "m.onnx")
    wide = np.asarray(getattr(model, function)(ROWS)).reshape(len(ROWS), -1)
    found_width = report.outputs[-1].shape[-1]
    assert isinstance(found_width, int)
    target = min(1, found_width - 1)
    column = min(target, wide.shape[1] - 1)  # two classes: one decision value, the second's
    probabilities = function == "predict_proba"
    e = ox.explain(
        report.path, ROWS, method="gradient", target=target, head="probability" if probabilities else "logit"
    )
    if name == "one-against-rest":  # normalised sigmoids: no logits in front, the probability itself is explained
        e = ox.explain(report.path, ROWS, method="gradient", target=target)
    np.testing.assert_allclose(e.score, wide[:, column], rtol=2e-4, atol=1e-5)

    def scores(rows: Array) -> Array:
        return np.asarray(getattr(model, function)(rows)).reshape(len(rows), -1)[:, column]

    h, rows = 1e-5, ROWS.astype(np.float64)
    slopes = np.stack([(scores(rows + h * v) - scores(rows - h * v)) / (2 * h) for v in np.eye(4)], axis=1)
    # float32 through kernels and long sums against float64
    np.testing.assert_allclose(e.attributions["X"], slopes, rtol=2e-3, atol=2e-4 * np.abs(slopes).max() + 1e-7)
    whole = ox.explain(report.path, ROWS, method="fullgrad", target=target)
    assert whole.residual is not None and whole.residual.relative.max() <= 1e-4
    assert not [b for b in whole.blocked if "Tree" in b]


@pytest.mark.parametrize(
    "name", ["logistic-two", "logistic-three", "mlp-classifier-two", "naive-bayes", "pca", "mixture"]
)
def test_logits_are_found_behind_the_probabilities(name: str, tmp_path: Path) -> None:
    """A probability of 1 - 1e-9 has no gradient to show; the logit in front has."""
    model, _ = fitted(name)
    path = export(model, X[:5], tmp_path / "m.onnx").path
    e = ox.explain(path, X[:5], method="gradient", target=1)
    assert e.head == "logit" and e.head_note
    z = np.log(np.clip(model.predict_proba(X[:5].astype(np.float64)), 1e-300, None))
    scores = ox.explain(path, X[:5], method="gradient", target=0).score
    if "Sigmoid" in e.head_note:  # z and -z are the two logits
        np.testing.assert_allclose(e.score, z[:, 1] - z[:, 0], rtol=1e-3, atol=1e-4)
    else:
        np.testing.assert_allclose(e.score - scores, z[:, 1] - z[:, 0], rtol=1e-3, atol=1e-4)
    assert np.abs(e.attributions["X"]).max() > 1e-3


def test_probabilities_of_a_support_vector_machine(tmp_path: Path) -> None:
    """They are coupled by an iteration that stops early: refused, with the way to decision values, which are served."""
    model = svm.SVC(probability=True, random_state=0).fit(X, THREE)
    report = export(model, ROWS, tmp_path / "m.onnx")
    assert any("scores='decision'" in note for note in report.notes)
    with pytest.raises(UnsupportedNodeError, match="scores=decision"):
        ox.explain(report.path, ROWS, method="gradient")
    e = ox.explain(report.path, ROWS, method="occlusion", target=1)
    np.testing.assert_allclose(e.score, model.predict_proba(ROWS)[:, 1], atol=1e-5)
    path = export(model, ROWS, tmp_path / "d.onnx", scores="decision").path
    e = ox.explain(path, ROWS, method="gradient", target=1)
    rows, h = ROWS.astype(np.float64), 1e-5
    slopes = [(model.decision_function(rows + h * v) - model.decision_function(rows - h * v))[:, 1] for v in np.eye(4)]
    np.testing.assert_allclose(e.attributions["X"], np.stack(slopes, axis=1) / (2 * h), rtol=1e-3, atol=1e-4)


def test_several_inputs_each_get_their_columns(tmp_path: Path) -> None:
    model = make_pipeline(mixed(), logistic()).fit(X.astype(np.float64), TWO)
    blocks = {"sepal": ROWS[:, :2], "petal": ROWS[:, 2:]}
    path = export(model, blocks, tmp_path / "m.onnx").path
    e = ox.explain(path, blocks, method="fullgrad", target=1)
    assert e.residual is not None and e.residual.relative.max() <= 1e-4
    g = ox.explain(path, blocks, method="gradient", target=1).attributions
    rows, h = ROWS.astype(np.float64), 1e-5

    def logit(rows: Array) -> Array:
        return np.asarray(model.decision_function(rows))

    slopes = np.stack([(logit(rows + h * v) - logit(rows - h * v)) / (2 * h) for v in np.eye(4)], axis=1)
    np.testing.assert_allclose(np.concatenate([g["sepal"], g["petal"]], axis=1), slopes, rtol=1e-3, atol=1e-5)


# --- what has no gradient ----------------------------------------------------------------------------

ROUGH: dict[str, tuple[Callable[[], Any], Any]] = {
    "forest": (lambda: ensemble.RandomForestClassifier(12, random_state=0), THREE),
    "boosting": (lambda: ensemble.GradientBoostingRegressor(n_estimators=12, random_state=0), REAL),
    "histograms": (lambda: ensemble.HistGradientBoostingRegressor(max_iter=12), REAL),
    "scaled-histograms": (
        lambda: make_pipeline(preprocessing.StandardScaler(), ensemble.HistGradientBoostingClassifier(max_iter=12)), TWO,
    ),
    "neighbours": (lambda: neighbors.KNeighborsClassifier(5), THREE),
}  # fmt: skip


def answer(model: Any, rows: Array) -> Array:
    return np.asarray(model.predict_proba(rows)[:, 1] if hasattr(model, "predict_proba") else model.predict(rows))


def shapley(function: Callable[[Array], Array], x: Array, baseline: Array) -> Array:
    """Shapley values of one row, over all subsets of its columns."""
    count = len(x)
    values = {s: float(function(np.where([i in s for i in range(count)], x, baseline)[None])[0])
              for k in range(count + 1) for s in itertools.combinations(range(count), k)}  # fmt: skip
    result = np.zeros(count)
    for i in range(count):
        for s, value in values.items():
            if i not in s:
                weight = math.factorial(len(s)) * math.factorial(count - len(s) - 1) / math.factorial(count)
                result[i] += weight * (values[tuple(sorted((*s, i)))] - value)
    return result


@pytest.mark.parametrize("name", ROUGH)
def test_trees_are_refused_with_the_way_out_and_explained_by_it(name: str, tmp_path: Path) -> None:
    make, y = ROUGH[name]
    model = make().fit(X, y)
    path = export(model, ROWS, tmp_path / "m.onnx").path
    target = 1 if hasattr(model, "predict_proba") else None
    with pytest.raises(BlockedGradientError, match=r"shapley_sampling, kernel_shap and occlusion"):
        ox.explain(path, ROWS, method="fullgrad", target=target)
    report = ox.check(path)
    assert not report.ok and "shapley_sampling" in report.problem
    baseline = X.mean(axis=0).round(2) + np.float32(0.003)
    wanted = np.stack([shapley(lambda rows: answer(model, rows), row, baseline) for row in ROWS])
    assert np.abs(wanted).max() > 0.01
    how = {"target": target, "head": "logit", "baseline": np.broadcast_to(baseline, ROWS.shape)}
    drawn = ox.explain(path, ROWS, method="shapley_sampling", permutations=200, **how)
    # 200 orders: the standard error of a mean of differences that are at most the answer's range
    assert np.abs(drawn.attributions["X"] - wanted).max() < 4 * np.ptp(answer(model, X)) / np.sqrt(200)
    np.testing.assert_allclose(
        drawn.attributions["X"].sum(axis=1), answer(model, ROWS) - answer(model, baseline[None])[0], atol=1e-4
    )
    exact = ox.explain(path, ROWS, method="kernel_shap", **how)  # 4 columns: all 14 subsets
    np.testing.assert_allclose(exact.attributions["X"], wanted, atol=2e-4)
    one = ox.explain(path, ROWS, method="occlusion", target=target, value=0.0)
    without = np.stack(
        [answer(model, np.where(np.arange(4) == i, 0, ROWS).astype(np.float32)) for i in range(4)], axis=1
    )
    np.testing.assert_allclose(one.attributions["X"], answer(model, ROWS)[:, None] - without, atol=1e-4)


def test_trees_on_the_command_line(tmp_path: Path) -> None:
    path = export(ROUGH["forest"][0]().fit(X, THREE), ROWS, tmp_path / "m.onnx").path
    rows = array(tmp_path / "x.npy", ROWS)
    words = refused("explain", path, rows)
    assert "shapley_sampling" in words and "kernel_shap" in words and "occlusion" in words
    checked = call("check", path)
    assert checked.exit_code == 1 and "shapley_sampling" in " ".join(checked.stdout.split())
    for method in ("shapley_sampling", "kernel_shap", "occlusion"):
        found = call("explain", path, rows, "--method", method, "--json")
        assert found.exit_code == 0, found.stderr
        assert len(json.loads(found.stdout)["methods"][0]["samples"]) == len(ROWS)


# --- files of other writers --------------------------------------------------------------------------


def test_dictionaries_and_labels_beside_the_scores(tmp_path: Path) -> None:
    """skl2onnx's own defaults: an integer label first, then a dictionary per row."""
    import skl2onnx

    model = logistic().fit(X, THREE)
    proto = skl2onnx.to_onnx(model, X[:1], target_opset={"": 18, "ai.onnx.ml": 3})
    assert proto.graph.node[-1].op_type == "ZipMap"
    onnx.save(proto, tmp_path / "m.onnx")
    e = ox.explain(tmp_path / "m.onnx", ROWS, method="fullgrad", target=1)
    assert e.output == "output_probability"
    assert e.residual is not None and e.residual.relative.max() <= 1e-4
    np.testing.assert_allclose(e.outputs["output_probability"], model.predict_proba(ROWS), atol=1e-6)
    printed = call("explain", tmp_path / "m.onnx", array(tmp_path / "x.npy", ROWS))
    assert printed.exit_code == 0 and "output_probability" in printed.stdout


def test_columns_have_their_names_in_words_and_in_the_picture(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas")
    names = ["sepal length", "sepal width", "petal length", "petal width"]
    frame = pd.DataFrame(X.astype(np.float64), columns=names)
    kinds = np.array(["setosa", "versicolor", "virginica"])
    model = make_pipeline(preprocessing.StandardScaler(), logistic()).fit(frame, kinds[THREE])
    path = export(model, frame, tmp_path / "m.onnx").path
    rows = array(tmp_path / "x.npy", ROWS[:2])
    found = call(
        "explain", path, rows, "--method", "integrated_gradients", "--target", "virginica", "-o", tmp_path / "x.png"
    )
    assert found.exit_code == 0, found.stderr
    assert "petal width" in found.stdout and "virginica" in found.stdout
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "exporting.md").read_text("utf-8")
    text = page.split("<!-- sklearn -->\n```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "exporting.md", "exec"), {})
    assert "worst" in capsys.readouterr().out  # the outermost cells are what the diagnosis goes by
    assert (tmp_path / "cancer.onnx").is_file()
