"""A scikit-learn model as the exporter sees it: what it takes, what it answers, and rows to try it on.

A model takes one table. In the file that is one matrix where all columns are numbers, or one input per column (or
per block of columns) where they are not. scikit-learn, and pandas where columns have names, are imported inside the
functions only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import ExportError, InputError
from onnxplain.exporters.sklearn_files import first_line

Array = npt.NDArray[Any]
#: Rows that are compared at most: more would show nothing new, and kernels are quadratic in them.
MOST_ROWS = 1024
#: Rows of a drawn sample.
DRAWN_ROWS = 16


@dataclass(frozen=True)
class Answers:
    """The kinds of output that a model's file has, by their names in it: how scikit-learn computes each."""

    functions: dict[str, Callable[[Any], Any]]
    classes: tuple[str, ...] = ()


@dataclass
class Table:
    """The rows that a model is given, as the blocks of columns that are inputs of the file.

    Attributes:
        model: The estimator or pipeline.
        blocks: ``[rows, columns]`` by name of the input.
        features: Names of all columns, in order; empty where they have none.
    """

    model: Any
    blocks: dict[str, Array]
    features: tuple[str, ...]

    @property
    def named(self) -> bool:
        """Whether the model picks columns by name, so that it has to be given a data frame."""
        return bool(self.features) and hasattr(self.model, "feature_names_in_") and any(_transformers(self.model))

    def given(self, blocks: Mapping[str, Array]) -> Any:
        """The rows in the form that the model takes.

        Raises:
            ExportError: It takes a data frame, and pandas is not installed.
        """
        if not self.named:
            return blocks[next(iter(blocks))] if len(blocks) == 1 else np.concatenate(list(blocks.values()), axis=1)
        try:
            import pandas as pd
        except ImportError:
            raise ExportError("the model picks its columns by name, which needs pandas: pip install pandas") from None
        columns = [array[:, i] for array in blocks.values() for i in range(array.shape[1])]
        return pd.DataFrame(dict(zip(self.features, columns, strict=True)))

    def run(self, answers: Answers, blocks: Mapping[str, Array]) -> dict[str, Array]:
        """scikit-learn's own answers, dense.

        Raises:
            ExportError: The model fails on these rows.
        """
        failure: Exception | None = None
        for dtype in (np.float64, np.float32):  # what was compiled for one type refuses the other
            rows = self.given({k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in blocks.items()})
            try:
                found = {name: function(rows) for name, function in answers.functions.items()}
            except Exception as error:  # the model may hold the user's own code
                failure = failure or error
                continue
            break
        else:
            raise ExportError(
                f"the model fails on the sample: {first_line(failure or ExportError())}; fit it, and give rows like those "
                "it was fitted on"
            ) from failure
        return {
            name: np.asarray(value.toarray() if hasattr(value, "toarray") else value) for name, value in found.items()
        }

    def varied(self, rows: int, seed: int = 0) -> dict[str, Array]:
        """Other rows: every column keeps its own values, in another order and combination."""
        rng = np.random.default_rng(seed)
        return {
            name: np.stack(
                [array[rng.permuted(np.arange(rows) % len(array)), i] for i in range(array.shape[1])], axis=1
            )
            for name, array in self.blocks.items()
        }


def final(model: Any) -> Any:
    """The estimator that gives a pipeline's answers; the model itself where it is none."""
    while hasattr(model, "steps") and model.steps and model.steps[-1][1] not in (None, "passthrough"):
        model = model.steps[-1][1]
    return model


def without_probabilities(model: Any) -> Any:
    """The model, or a copy of it whose support vector machine has decision values alone: skl2onnx writes either."""
    if getattr(final(model), "_probA", None) is None or not len(final(model)._probA):
        return model
    copied = copy.deepcopy(model)
    final(copied)._probA = final(copied)._probB = np.empty(0)
    return copied


def parts(model: Any) -> Iterator[Any]:
    """The model, and the estimators that it is made of, outermost first."""
    yield model
    inner = [one for _, one in getattr(model, "steps", ())]
    inner += [one for _, one, _ in getattr(model, "transformers_", ())]
    inner += [getattr(model, "regressor_", None), getattr(model, "estimator_", None)]
    for one in inner:
        if hasattr(one, "get_params"):
            yield from parts(one)


def _transformers(model: Any) -> Iterator[Any]:
    return (one for one in parts(model) if hasattr(one, "transformers_"))


def describe(model: Any) -> str:
    """Names of the classes: ``Pipeline(StandardScaler, LogisticRegression)``."""
    steps = [one for _, one in getattr(model, "steps", ())]
    name = type(model).__name__
    return f"{name}({', '.join(map(describe, steps))})" if steps else "passthrough" if isinstance(model, str) else name


def answers_of(model: Any, decision: bool) -> Answers:
    """What the model's file answers.

    Args:
        model: A fitted estimator or pipeline.
        decision: Decision values in place of probabilities.

    Raises:
        ExportError: It predicts several things at once, or nothing that a file could hold.
    """
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor

    classes = getattr(model, "classes_", None)
    if is_classifier(model):
        if isinstance(classes, list):
            raise ExportError("the classifier answers several questions at once; export one classifier for each")
        names = tuple(str(name) for name in classes) if classes is not None else ()
        if hasattr(model, "predict_proba") and not decision:
            return Answers({"label": model.predict, "probabilities": model.predict_proba}, names)
        if hasattr(model, "decision_function"):
            return Answers({"label": model.predict, "scores": model.decision_function}, names)
        raise ExportError(f"{describe(model)} has no {'decision values' if decision else 'scores'}; nothing to explain")
    if is_regressor(model):
        return Answers({"prediction": model.predict})
    if is_outlier_detector(model):
        return Answers({"label": model.predict, "scores": model.decision_function})
    if is_clusterer(model) and hasattr(model, "transform"):
        return Answers({"label": model.predict, "distances": model.transform})
    if hasattr(model, "predict_proba"):  # mixtures
        return Answers({"label": model.predict, "probabilities": model.predict_proba})
    if hasattr(model, "transform"):
        return Answers({"features": model.transform})
    raise ExportError(f"{describe(model)} neither predicts nor transforms new rows, so there is nothing to export")


# ----- rows -------------------------------------------------------------------------------------------


def table_of(model: Any, sample: Any, dtype: str, seed: int) -> Table:
    """The sample as blocks of columns.

    Args:
        model: A fitted estimator or pipeline.
        sample: ``[rows, columns]``, a data frame, a dict from name to ``[rows]`` or ``[rows, columns]``, a tuple of
            such arrays; None draws rows.
        dtype: Type of real numbers in the file.
        seed: Seed of drawn rows.

    Raises:
        InputError: It does not fit the model, or no rows can be drawn.
        ExportError: The model is not fitted.
    """
    wanted = getattr(model, "n_features_in_", None)
    known = tuple(str(name) for name in getattr(model, "feature_names_in_", ()))
    if sample is None:
        if wanted is None:
            raise InputError("the model does not say how many columns it takes; give a sample")
        sample = draw(model, int(wanted), seed)
    if hasattr(sample, "dtypes") and hasattr(sample, "columns"):
        known, sample = tuple(map(str, sample.columns)), _cut(sample)
    elif isinstance(sample, tuple):
        sample = {f"X{i}": block for i, block in enumerate(sample)}
    blocks = {
        str(k): _block(str(k), v, dtype) for k, v in (sample if isinstance(sample, Mapping) else {"X": sample}).items()
    }
    rows = {len(block) for block in blocks.values()}
    if not blocks or len(rows) != 1 or 0 in rows:
        raise InputError("the sample's columns have different numbers of rows, or none; give each the same number")
    count = sum(block.shape[1] for block in blocks.values())
    if wanted is not None and count != wanted:
        raise InputError(f"the sample has {count} columns, the model takes {wanted}; give those that it was fitted on")
    if not known and all(block.shape[1] == 1 for block in blocks.values()) and len(blocks) > 1:
        known = tuple(blocks)
    return Table(model, {k: v[:MOST_ROWS] for k, v in blocks.items()}, known if len(known) == count else ())


def _cut(frame: Any) -> dict[str, Any]:
    """A data frame of numbers is one matrix, any other one input per column."""
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    if all(column.dtype.kind in "fiub" for column in columns.values()):
        return {"X": np.stack([column.astype(np.float64) for column in columns.values()], axis=1)}
    return columns


def _block(name: str, given: Any, dtype: str) -> Array:
    array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    array = array[:, None] if array.ndim == 1 and name != "X" else array
    if array.ndim != 2:
        raise InputError(f"the sample's '{name}' has shape {array.shape}; scikit-learn takes [rows, columns]")
    if array.dtype.kind in "OUST":
        return array.astype(str).astype(object)
    if array.dtype.kind in "iub" and name != "X":
        return array.astype(np.int64)
    if array.dtype.kind not in "fiub":
        raise InputError(f"the sample's '{name}' is of type {array.dtype}; give numbers or text")
    return array.astype(dtype)


def draw(model: Any, columns: int, seed: int) -> Array:
    """Rows like those that the model has seen, as far as it remembers them; normal draws otherwise."""
    rng = np.random.default_rng(seed)
    for one in parts(model):
        seen = _seen(one)
        if seen is not None and seen.ndim == 2 and seen.shape[1] == columns and len(seen):
            return seen[rng.integers(len(seen), size=DRAWN_ROWS)]
        middle, spread = _scale(one)
        if middle is not None and np.shape(middle) == (columns,):
            return np.asarray(middle + spread * rng.standard_normal((DRAWN_ROWS, columns)))
        thresholds = _thresholds(one, columns)
        if any(thresholds):
            return np.stack([_between(np.asarray(cuts), rng) for cuts in thresholds], axis=1)
    return rng.standard_normal((DRAWN_ROWS, columns))


def _seen(one: Any) -> Array | None:
    """Rows of the data that a model keeps."""
    found = (getattr(one, name, None) for name in ("support_vectors_", "X_train_", "_fit_X", "cluster_centers_"))
    return next((np.asarray(rows) for rows in found if rows is not None and hasattr(rows, "ndim")), None)


def _scale(one: Any) -> tuple[Any, Any]:
    """Middle and spread of the columns that a scaler has seen."""
    if getattr(one, "data_min_", None) is not None:
        return (one.data_min_ + one.data_max_) / 2, (one.data_max_ - one.data_min_) / 6
    middle = getattr(one, "mean_", getattr(one, "center_", None))
    spread = getattr(one, "scale_", None)
    if spread is None and hasattr(one, "components_") and hasattr(one, "explained_variance_"):
        spread = np.sqrt(one.explained_variance_ @ np.square(one.components_))
    return (middle, 1.0 if spread is None else spread) if middle is not None else (None, None)


def _thresholds(one: Any, columns: int) -> list[list[float]]:
    """Where the trees of a model cut each column."""
    found: list[list[float]] = [[] for _ in range(columns)]
    trees = [one, *np.asarray(getattr(one, "estimators_", ()), dtype=object).ravel()]
    pairs = [(tree.tree_.feature, tree.tree_.threshold) for tree in trees if hasattr(tree, "tree_")]
    for stage in getattr(one, "_predictors", ()):
        pairs += [(p.nodes["feature_idx"], p.nodes["num_threshold"]) for p in stage]
    for features, cuts in pairs:
        for feature, cut in zip(features, cuts, strict=True):
            if 0 <= feature < columns and np.isfinite(cut) and cut != -2.0:
                found[feature].append(float(cut))
    return found


def _between(cuts: Array, rng: np.random.Generator) -> Array:
    """Values on both sides of the cuts, off them; normal where there is none."""
    if not cuts.size:
        return rng.standard_normal(DRAWN_ROWS)
    low, high = cuts.min(), cuts.max()
    room = (high - low or abs(low) or 1.0) / 4
    return rng.uniform(low - room, high + room, DRAWN_ROWS)


def selected(answers: Mapping[str, Array]) -> Sequence[bool]:
    """Rows whose label does not hang on rounding: the two best classes are apart, or the score is off zero."""
    count = len(next(iter(answers.values())))
    scores = next((array for name, array in answers.items() if name != "label"), None)
    if "label" not in answers or scores is None:
        return [True] * count
    wide = np.asarray(-scores if "distances" in answers else scores, np.float64).reshape(count, -1)
    best = np.sort(wide, axis=1)
    apart = best[:, -1] - best[:, -2] if wide.shape[1] > 1 else np.abs(wide[:, 0])
    return [bool(gap > 1e-3 * (np.abs(wide).max() or 1.0)) for gap in apart]
