"""scikit-learn export: what the file holds and answers, and what is refused.

The files are read back with `onnx` and run with `onnxruntime` here, apart from the exporter's own check.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

sklearn = pytest.importorskip("sklearn", reason="needs the sklearn extra")
pytest.importorskip("skl2onnx", reason="needs the sklearn extra")
import joblib  # noqa: E402
from sklearn import (  # noqa: E402
    cluster,
    compose,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
)
from sklearn.pipeline import make_pipeline  # noqa: E402

from onnxplain.engine.errors import ExportError, InputError, OnnxplainError, OptionError  # noqa: E402
from onnxplain.exporters import export  # noqa: E402

Array = np.ndarray[Any, Any]
# scikit-learn announces what later releases change, such as SVC(probability=True).
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

X = datasets.load_iris().data.astype(np.float32)
THREE = datasets.load_iris().target
TWO = (THREE == 1).astype(int)
REAL = (X @ [0.3, -0.2, 0.5, 0.1] + np.sin(X[:, 0])).astype(np.float64)
#: Rows off the training data: neighbours and trees are level there.
ROWS = (X[3::16] + 0.0137).astype(np.float32)


def logistic() -> Any:
    return linear_model.LogisticRegression(max_iter=2000)


MODELS: dict[str, tuple[Callable[[], Any], Any]] = {
    "logistic-two": (logistic, TWO),
    "logistic-three": (logistic, THREE),
    "linear-svc-two": (svm.LinearSVC, TWO),
    "linear-svc-three": (svm.LinearSVC, THREE),
    "svc-two": (svm.SVC, TWO),
    "svc-three": (svm.SVC, THREE),
    "svc-ovo": (lambda: svm.SVC(decision_function_shape="ovo"), THREE),
    "svc-probability-two": (lambda: svm.SVC(probability=True, random_state=0), TWO),
    "svc-probability-three": (lambda: svm.SVC(probability=True, random_state=0), THREE),
    "svr": (svm.SVR, REAL),
    "one-class": (svm.OneClassSVM, None),
    "ridge": (linear_model.Ridge, REAL),
    "ridge-two-answers": (linear_model.Ridge, np.stack([REAL, 1 - REAL], axis=1)),
    "ridge-classifier": (linear_model.RidgeClassifier, THREE),
    "poisson": (linear_model.PoissonRegressor, np.abs(REAL)),
    "mlp-classifier": (lambda: neural_network.MLPClassifier((6,), max_iter=2000, random_state=0), THREE),
    "mlp-regressor": (
        lambda: neural_network.MLPRegressor(hidden_layer_sizes=(6,), max_iter=2000, random_state=0),
        REAL,
    ),
    "standard": (lambda: make_pipeline(preprocessing.StandardScaler(), logistic()), THREE),
    "minmax": (lambda: make_pipeline(preprocessing.MinMaxScaler(), logistic()), THREE),
    "normalizer": (lambda: make_pipeline(preprocessing.Normalizer(), logistic()), THREE),
    "pca": (lambda: make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(2), logistic()), THREE),
    "polynomial": (lambda: make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.Ridge()), REAL),
    "imputer": (lambda: make_pipeline(impute.SimpleImputer(), logistic()), THREE),
    "knn-imputer": (lambda: make_pipeline(impute.KNNImputer(n_neighbors=2), logistic()), THREE),
    "gaussian-process": (
        lambda: gaussian_process.GaussianProcessRegressor(gaussian_process.kernels.RBF(2.0), alpha=0.1, optimizer=None),
        REAL,
    ),
    "naive-bayes": (naive_bayes.GaussianNB, THREE),
    "discriminants": (discriminant_analysis.LinearDiscriminantAnalysis, THREE),
    "quadratic": (discriminant_analysis.QuadraticDiscriminantAnalysis, THREE),
    "neighbours": (neighbors.KNeighborsClassifier, THREE),
    "kmeans": (lambda: cluster.KMeans(3, n_init=1, random_state=0), None),
    "mixture": (lambda: mixture.GaussianMixture(2, random_state=0), None),
    "forest": (lambda: ensemble.RandomForestClassifier(8, random_state=0), THREE),
    "boosting": (lambda: ensemble.GradientBoostingRegressor(n_estimators=8, random_state=0), REAL),
    "histograms-two": (lambda: ensemble.HistGradientBoostingClassifier(max_iter=8), TWO),
    "histograms": (lambda: ensemble.HistGradientBoostingRegressor(max_iter=8), REAL),
    "isolation": (lambda: ensemble.IsolationForest(n_estimators=8, random_state=0), None),
    "scaler-alone": (preprocessing.StandardScaler, None),
}


def fitted(name: str) -> Any:
    make, y = MODELS[name]
    return make().fit(X) if y is None else make().fit(X, y)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def own(model: Any, rows: Array) -> list[Array]:
    """What scikit-learn says to the rows, in the order of the file's outputs, written down case by case."""
    first = [model.predict(rows)] if hasattr(model, "predict") else []
    if hasattr(model, "predict_proba"):
        return [*first, model.predict_proba(rows)]
    if hasattr(model, "decision_function"):
        values = model.decision_function(rows)
        return [*first, values if values.ndim == 2 else values[:, None]]
    if hasattr(model, "transform"):
        return [*first, model.transform(rows)]
    return [first[0].reshape(len(rows), -1)]


@pytest.mark.parametrize("name", MODELS)
def test_file_answers_like_the_model_at_every_batch_size(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    report = export(model, ROWS, tmp_path / "m.onnx")
    assert (report.opset, report.ir_version) == (18, 10)
    assert [(t.name, t.dtype, t.shape) for t in report.inputs] == [("X", "float32", ("batch", 4))]
    assert all(t.shape[0] == "batch" for t in report.outputs)
    assert report.batch_sizes[-1] <= 3 < report.batch_sizes[0]
    onnx.checker.check_model(str(report.path), full_check=True)
    assert "ZipMap" not in report.operators
    runtime = session(report.path)
    for size in (1, 2, 9):
        for actual, expected in zip(runtime.run(None, {"X": ROWS[:size]}), own(model, ROWS[:size]), strict=True):
            if expected.shape[1:] == (1,) and actual.shape[1:] == (
                2,
            ):  # two classes: the second's value, and its negative
                expected = np.concatenate([-expected, expected], axis=1)
            assert actual.shape == expected.shape
            # float32 against float64, through kernels and exponentials
            np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["logistic-three", "svc-probability-two", "svc-probability-three"])
def test_decision_values_in_the_place_of_probabilities(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    report = export(model, ROWS, tmp_path / "m.onnx", scores="decision")
    assert [t.name for t in report.outputs] == ["label", "scores"]
    label, scores = session(report.path).run(None, {"X": ROWS})
    wanted = model.decision_function(ROWS)
    np.testing.assert_allclose(scores if wanted.ndim == 2 else scores[:, 1], wanted, rtol=1e-4, atol=1e-5)
    assert label.tolist() == model.predict(ROWS).tolist()
    assert hasattr(model, "predict_proba"), "the model itself has lost its probabilities"


def test_names_of_classes_and_a_text_label(tmp_path: Path) -> None:
    names = np.array(["setosa", "versicolor", "virginica"])
    report = export(logistic().fit(X, names[THREE]), ROWS, tmp_path / "m.onnx")
    found = {p.key: p.value for p in onnx.load(report.path).metadata_props}
    assert json.loads(found["onnxplain.labels"]) == names.tolist()
    assert found["scikit-learn"] == "LogisticRegression"
    label, _ = session(report.path).run(None, {"X": ROWS})
    assert label.tolist() == names[own(fitted("logistic-three"), ROWS)[0]].tolist()


@pytest.mark.parametrize("name", ["standard", "svc-two", "forest", "gaussian-process", "ridge", "histograms"])
def test_a_sample_is_drawn_where_none_is_given(name: str, tmp_path: Path) -> None:
    report = export(fitted(name), None, tmp_path / "m.onnx")
    assert report.inputs[0].shape == ("batch", 4)
    assert report.max_difference.keys() == {t.name for t in report.outputs}
    if name == "forest":  # on both sides of the cuts: several leaves are held against scikit-learn's
        assert "shapley_sampling" in " ".join(report.notes)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first = export(fitted("pca"), ROWS, tmp_path / "m.onnx").sha256
    assert export(fitted("pca"), ROWS, tmp_path / "m.onnx").sha256 == first


def test_double_precision_where_it_is_asked_for(tmp_path: Path) -> None:
    model = gaussian_process.GaussianProcessRegressor(
        gaussian_process.kernels.Matern(nu=1.5), alpha=1e-8, optimizer=None
    )
    model.fit(X[::3], REAL[::3])
    with pytest.raises(ExportError, match="dtype='float64'"):
        export(model, ROWS, tmp_path / "m.onnx", tolerance=1e-9)
    report = export(model, ROWS, tmp_path / "m.onnx", dtype="float64")
    assert report.inputs[0].dtype == report.outputs[0].dtype == "float64"
    assert report.max_difference["prediction"] < 1e-9
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


# --- columns ----------------------------------------------------------------------------------------


def test_blocks_of_columns_are_inputs_of_their_own(tmp_path: Path) -> None:
    scaled = compose.ColumnTransformer(
        [("s", preprocessing.StandardScaler(), [0, 2]), ("m", preprocessing.MinMaxScaler(), [1, 3])]
    )
    model = make_pipeline(scaled, logistic()).fit(X, THREE)
    sample = {"sepal": ROWS[:, :2], "petal length": ROWS[:, 2], "petal width": ROWS[:, 3:]}
    report = export(model, sample, tmp_path / "m.onnx")
    assert [(t.name, t.shape) for t in report.inputs] == [
        ("sepal", ("batch", 2)), ("petal length", ("batch", 1)), ("petal width", ("batch", 1)),
    ]  # fmt: skip
    feeds = {"sepal": ROWS[:, :2], "petal length": ROWS[:, 2:3], "petal width": ROWS[:, 3:]}
    np.testing.assert_allclose(session(report.path).run(None, feeds)[1], model.predict_proba(ROWS), atol=1e-6)


def test_text_and_integers_beside_numbers(tmp_path: Path) -> None:
    kind = np.array(["a", "b", "c"])[THREE]
    whole = np.arange(150) % 4
    table = np.concatenate([X.astype(object), kind[:, None], whole[:, None].astype(object)], axis=1)
    encoded = compose.ColumnTransformer(
        [("n", preprocessing.StandardScaler(), [0, 1, 2, 3]), ("k", preprocessing.OneHotEncoder(), [4, 5])]
    )
    model = make_pipeline(encoded, linear_model.Ridge()).fit(table, REAL)
    report = export(model, {"x": X, "kind": kind, "whole": whole}, tmp_path / "m.onnx")
    assert [t.dtype for t in report.inputs] == ["float32", "string", "int64"]
    feeds = {"x": X, "kind": kind[:, None].astype(object), "whole": whole[:, None]}
    np.testing.assert_allclose(session(report.path).run(None, feeds)[0][:, 0], model.predict(table), rtol=1e-4)


@pytest.mark.parametrize("mixed", [False, True])
def test_columns_picked_by_name(mixed: bool, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas", reason="needs pandas")
    frame = pd.DataFrame({"sepal length (cm)": X[:, 0], "b": X[:, 1]})
    steps = [("s", preprocessing.StandardScaler(), ["b"]), ("m", preprocessing.MinMaxScaler(), ["sepal length (cm)"])]
    if mixed:
        frame["kind"] = np.array(["a", "b", "c"])[THREE]
        steps.append(("k", preprocessing.OneHotEncoder(), ["kind"]))
    model = make_pipeline(compose.ColumnTransformer(steps), logistic()).fit(frame, TWO)
    report = export(model, frame, tmp_path / "m.onnx")
    found = {p.key: p.value for p in onnx.load(report.path).metadata_props}
    assert json.loads(found["onnxplain.features"]) == list(frame.columns)
    if mixed:
        assert [t.name for t in report.inputs] == list(frame.columns)
        feeds = {c: frame[[c]].to_numpy(object if c == "kind" else np.float32) for c in frame.columns}
    else:
        assert [(t.name, t.shape) for t in report.inputs] == [("X", ("batch", 2))]
        feeds = {"X": frame.to_numpy(np.float32)}
    np.testing.assert_allclose(session(report.path).run(None, feeds)[1], model.predict_proba(frame), atol=1e-6)


def test_missing_values_are_part_of_a_sample(tmp_path: Path) -> None:
    holes = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.2, np.nan, X).astype(np.float32)
    model = make_pipeline(impute.SimpleImputer(strategy="median"), logistic()).fit(holes, THREE)
    report = export(model, holes, tmp_path / "m.onnx")
    found = session(report.path).run(None, {"X": holes})[1]
    np.testing.assert_allclose(found, model.predict_proba(holes), atol=1e-5)


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.joblib", "m.pkl", "compressed.pkl", "m.pickle"])
def test_files_of_models(name: str, tmp_path: Path) -> None:
    model = fitted("standard")
    if name in ("m.pkl", "m.pickle"):
        (tmp_path / name).write_bytes(pickle.dumps(model))
    else:
        joblib.dump(model, tmp_path / name, compress=3 if name.startswith("compressed") else 0)
    report = export(tmp_path / name, None, tmp_path / "m.onnx")
    np.testing.assert_allclose(session(report.path).run(None, {"X": ROWS})[1], model.predict_proba(ROWS), atol=1e-6)


def test_a_skops_file(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io", reason="needs skops")
    skops.dump(fitted("imputer"), tmp_path / "m.skops")
    assert export(tmp_path / "m.skops", None, tmp_path / "m.onnx").outputs[1].name == "probabilities"


def test_files_of_something_else_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "text.joblib").write_text("hello")
    for name, words in (("d.pkl", "type dict"), ("text.joblib", "cannot be read"), ("none.pkl", "there is no file")):
        with pytest.raises(ExportError, match=words):
            export(tmp_path / name, None, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


# --- refusals ---------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], type[OnnxplainError], str]] = {
    "columns": (lambda: fitted("ridge"), X[:, :2], {}, InputError, "2 columns, the model takes 4"),
    "rank": (lambda: fitted("ridge"), X[0], {}, InputError, r"shape \(4,\)"),
    "uneven": (lambda: fitted("ridge"), {"a": X[:3, :2], "b": X[:2, 2:]}, {}, InputError, "different numbers of rows"),
    "opset": (lambda: fitted("ridge"), X, {"opset": 12}, OptionError, "13 to 21"),
    "scores": (lambda: fitted("ridge"), X, {"scores": "logits"}, OptionError, "probabilities or decision"),
    "dtype": (lambda: fitted("ridge"), X, {"dtype": "float16"}, OptionError, "float32 or float64"),
    "converter": (lambda: fitted("ridge"), X, {"options": {"zip": 1}}, OptionError, "no option zip"),
    "decision": (lambda: fitted("naive-bayes"), X, {"scores": "decision"}, ExportError, "no decision values"),
    "unfitted": (logistic, X, {}, ExportError, "not fitted"),
    "untranslated": (
        lambda: make_pipeline(preprocessing.SplineTransformer(), linear_model.Ridge()).fit(X, REAL),
        X, {}, ExportError, "cannot translate Pipeline.*SplineTransformer.*replace that step",
    ),
    "nothing to predict": (lambda: cluster.DBSCAN().fit(X), X, {}, ExportError, "neither predicts nor transforms"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_exported_is_refused_in_words(case: Any, tmp_path: Path) -> None:
    make, sample, options, kind, words = case
    with pytest.raises(kind, match=words):
        export(make(), sample, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_file_that_disagrees_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted("ridge")
    right = type(model).predict
    monkeypatch.setattr(type(model), "predict", lambda self, rows: right(self, rows) + 0.01)
    with pytest.raises(ExportError, match="'prediction' of the exported file differs"):
        export(model, ROWS, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["sklearn", "skl2onnx"])
def test_a_missing_extra_is_one_sentence(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == missing else found(name, *rest)
    )
    with pytest.raises(ExportError, match=r"not installed: pip install 'onnxplain\[sklearn\]'") as raised:
        export(fitted("ridge"), ROWS, tmp_path / "m.onnx")
    assert "\n" not in str(raised.value)


def test_no_framework_is_imported_to_know_an_object() -> None:
    from onnxplain.exporters.sklearn import can_export

    assert not can_export(object()) and not can_export(linear_model.Ridge)
    assert can_export(linear_model.Ridge()) and can_export("m.joblib")
    assert "skops" not in sys.modules or can_export(Path("m.skops"))
