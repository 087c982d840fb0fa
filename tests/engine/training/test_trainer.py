"""Training on onnxruntime alone: known gradients, scratch and fine tuning, what is kept, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_models import assets, model, node

from onnxplain.engine.errors import InputError, OptionError, SessionError
from onnxplain.engine.training.trainer import Trainer

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)


def linear(width: int = 3) -> onnx.ModelProto:
    """Softmax regression on four numbers."""
    w = np.linspace(-1, 1, 4 * width).reshape(4, width)
    return model(
        [node("Gemm", "x w b", "y")], {"x": ["N", 4]}, {"y": ["N", width]}, {"w": w, "b": np.linspace(0, 1, width)}
    )


def blocks() -> onnx.ModelProto:
    """Convolution, BatchNormalization, ReLU, mean, Softmax."""
    rng = np.random.default_rng(5)
    return model(
        [
            node("Conv", "x w1", "c", pads=[1, 1, 1, 1]),
            node("BatchNormalization", "c g s m v", "n", momentum=0.8),
            node("Relu", "n", "r"),
            node("GlobalAveragePool", "r", "p"),
            node("Flatten", "p", "f"),
            node("Gemm", "f w2 b2", "z"),
            node("Softmax", "z", "y", axis=1),
        ],
        {"x": ["N", 1, 6, 6]},
        {"y": ["N", 2]},
        {
            "w1": rng.normal(size=(4, 1, 3, 3)), "g": np.full(4, 1.5), "s": np.full(4, 0.1), "m": np.full(4, 0.3),
            "v": np.full(4, 2.0), "w2": rng.normal(size=(4, 2)), "b2": np.zeros(2),
        },
    )  # fmt: skip


def stripes(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Pictures with lines across (0) or upright (1), in noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.normal(0, 0.5, (count, 1, 6, 6))
    line = np.arange(6) % 2 * 2.0 - 1
    x += np.where(y[:, None, None, None] == 0, line[:, None], line[None, :])
    return x.astype(np.float32), y


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def test_gradient_of_softmax_regression() -> None:
    """It is known: x^T (p - y) / N."""
    x, y = RNG.normal(size=(9, 4)).astype(np.float32), RNG.integers(0, 3, 9)
    trainer = Trainer(linear())
    p = softmax(x.astype(np.float64) @ trainer.weights()["w"] + trainer.weights()["b"])
    wrong = (p - np.eye(3)[y]) / 9
    found = trainer.gradients(x, y)
    assert np.abs(found["w"] - x.T @ wrong).max() < 1e-6  # float32
    assert np.abs(found["b"] - wrong.sum(axis=0)).max() < 1e-6


def test_momentum_over_two_steps() -> None:
    x, y = RNG.normal(size=(9, 4)).astype(np.float32), RNG.integers(0, 3, 9)
    trainer = Trainer(linear(), "sgd", lr=0.5, weight_decay=0.1, momentum=0.6, frozen=["b"])
    w, kept, b = trainer.weights()["w"].astype(np.float64), np.zeros((4, 3)), np.linspace(0, 1, 3)
    for _ in range(2):
        trainer.advance({"x": x}, y)
        kept = 0.6 * kept + x.T @ (softmax(x @ w + b) - np.eye(3)[y]) / 9 + 0.1 * w
        w = w - 0.5 * kept
    assert set(trainer.weights()) == {"w"}
    assert np.abs(trainer.weights()["w"] - w).max() < 1e-6


def test_single_score_is_logistic_regression() -> None:
    """The gradient is x^T (sigmoid(z) - y) / N; a trailing Sigmoid changes nothing."""
    x, y = RNG.normal(size=(8, 4)).astype(np.float32), RNG.integers(0, 2, 8)
    plain = linear(1)
    ending = onnx.ModelProto()
    ending.CopyFrom(plain)
    ending.graph.node[0].output[0] = "z"
    ending.graph.node.append(node("Sigmoid", "z", "y"))
    for proto in (plain, ending):
        trainer = Trainer(proto)
        assert trainer.classes == 2
        z = x @ trainer.weights()["w"] + trainer.weights()["b"]
        wanted = x.T @ (1 / (1 + np.exp(-z)) - y[:, None]) / 8
        assert np.abs(trainer.gradients(x, y)["w"] - wanted).max() < 1e-6
        assert np.array_equal(trainer.answers(x), (z[:, 0] > 0).astype(int))


def test_batch_statistics_are_kept_as_running_means() -> None:
    """One step: 0.8 of the old and 0.2 of the batch's own, the variance over n - 1; inference then uses them."""
    x, y = stripes(10)
    trainer = Trainer(blocks())
    before = trainer.weights()
    padded = np.pad(x[:, 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    c = np.einsum("nhwuv,cuv->cnhw", windows, before["w1"][:, 0].astype(np.float64)).reshape(4, -1)
    trainer.advance({"x": x}, y)
    after = trainer.weights()
    assert np.abs(after["m"] - (0.8 * before["m"] + 0.2 * c.mean(axis=1))).max() < 1e-5
    assert np.abs(after["v"] - (0.8 * before["v"] + 0.2 * c.var(axis=1, ddof=1))).max() < 1e-5


def test_loss_falls_and_unseen_samples_are_known() -> None:
    trainer = Trainer(blocks(), lr=0.05, threads=1)
    trainer.initialise(1)
    told: list[tuple[int, int]] = []
    history = trainer.fit(
        *stripes(96), epochs=8, batch_size=16, progress=lambda done, all_, _: told.append((done, all_))
    )
    assert history.loss[-1] < 0.2 * history.loss[0]
    assert told == [(i + 1, 8) for i in range(8)]
    assert trainer.accuracy(*stripes(64, seed=1)) > 0.95


def test_same_seed_same_bytes() -> None:
    x, y = stripes(40)
    results = []
    for seed in (0, 0, 1):
        trainer = Trainer(blocks(), threads=1)
        trainer.initialise(seed)
        trainer.fit(x, y, epochs=2, batch_size=16, seed=seed)
        results.append(trainer.model().SerializeToString(deterministic=True))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_trained_twice_with_one_trainer_is_the_same_as_once() -> None:
    """Scratch means scratch: nothing of the first training is left in weights, statistics or optimiser."""
    x, y = stripes(40)
    trainer = Trainer(blocks(), threads=1)
    results = []
    for _ in range(2):
        trainer.initialise(4)
        trainer.fit(x, y, epochs=2, batch_size=16, seed=4)
        results.append(trainer.weights())
    assert all(np.array_equal(results[0][n], results[1][n]) for n in results[0])


def test_weights_are_read_and_set_between_steps() -> None:
    """What the device holds is read as a copy; what is set is what the next step begins from."""
    x, y = stripes(12)
    trainer = Trainer(blocks(), lr=0.05)
    first, statistics = trainer.values, trainer.statistics
    trainer.advance({"x": x}, y)
    after = trainer.values
    assert np.abs(after - first).max() > 0.01
    with pytest.raises(ValueError, match="read-only"):
        trainer.values[:] = 0
    trainer.values, trainer.statistics = first, statistics
    trainer.restart()
    trainer.advance({"x": x}, y)
    np.testing.assert_array_equal(trainer.values, after)


def test_written_model_answers_alike() -> None:
    """The file that comes out, run by onnxruntime itself, Softmax and all."""
    x, y = stripes(32)
    trainer = Trainer(blocks(), lr=0.02)
    trainer.fit(x, y, epochs=2, batch_size=8)
    proto = trainer.model()
    onnx.checker.check_model(proto)
    (scores,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(["y"], {"x": x})
    assert np.allclose(scores.sum(axis=1), 1)
    assert np.array_equal(scores.argmax(axis=1), trainer.answers(x))


def test_frozen_normalisation_keeps_its_statistics() -> None:
    x, y = stripes(20)
    trainer = Trainer(blocks(), frozen=["g", "s"])
    trainer.fit(x, y, epochs=1, batch_size=10)
    kept = {i.name: onnx.numpy_helper.to_array(i) for i in trainer.model().graph.initializer}
    assert np.allclose(kept["m"], 0.3)
    assert np.allclose(kept["g"], 1.5)
    assert "m" not in trainer.weights()
    assert trainer.untrained == ["g", "s", "m", "v"]
    assert Trainer(blocks()).untrained == []


def test_rate_falls_by_steps() -> None:
    x, y = stripes(8)
    history = Trainer(blocks(), lr=0.1, lr_every=2, lr_factor=0.5).fit(x, y, epochs=5, batch_size=8)
    assert history.rate == [0.1, 0.1, 0.05, 0.05, 0.025]


def test_a_single_last_sample_does_not_spoil_the_statistics() -> None:
    x, y = stripes(9)
    trainer = Trainer(blocks())
    trainer.fit(x, y, epochs=1, batch_size=4)
    assert trainer._count == 2  # batches of 4, 4 and 1


def test_tokens_train_their_embedding() -> None:
    proto = model(
        [node("Gather", "table ids", "e"), node("ReduceMean", "e axis", "m", keepdims=0), node("Gemm", "m w b", "y")],
        {}, {"y": ["N", 2]}, {"table": RNG.normal(size=(6, 3)), "w": RNG.normal(size=(3, 2)), "b": np.zeros(2)},
    )  # fmt: skip
    proto.graph.input.append(onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 5]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    ids = np.random.default_rng(0).integers(0, 6, (60, 5))
    y = (np.sum(ids < 3, axis=1) > 2).astype(int)
    trainer = Trainer(proto, lr=0.05, threads=1)
    trainer.initialise(0)
    trainer.fit({"ids": ids}, y, epochs=30, batch_size=20)
    assert trainer.accuracy({"ids": ids}, y) > 0.95


REFUSED = [
    (lambda t: t.fit(*stripes(4), epochs=0), OptionError, "at least 1"),
    (lambda t: t.fit(stripes(4)[0], [0, 1, 0, 2], epochs=1), InputError, "classes 0 to 1"),
    (lambda t: t.fit(stripes(4)[0], [0.5, 1, 0, 1], epochs=1), InputError, "whole numbers"),
    (lambda t: t.fit(stripes(4)[0], [0, 1], epochs=1), InputError, "2 labels for 4 samples"),
    (lambda t: t.accuracy(stripes(4)[0], [0, 1]), InputError, "2 labels for 4 samples"),
    (lambda t: t.fit(np.zeros((4, 1, 6, 7), np.float32), [0, 1, 0, 1], epochs=1), InputError, "shape"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_bad_samples(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(Trainer(blocks()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimiser": "lbfgs"}, "choose one of adam, adamw, sgd"),
        ({"lr": 0.0}, "above 0"),
        ({"weight_decay": -1.0}, "negative"),
        ({"momentum": 1.0}, r"not in \[0, 1\)"),
        ({"lr_every": 0}, "at least one epoch"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Trainer(blocks(), **options)


def test_fixed_batch_is_refused() -> None:
    proto = linear()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(OptionError, match="fixed batch of 1"):
        Trainer(proto)


def test_several_classes_at_once_are_refused() -> None:
    proto = linear()
    proto.graph.node[0].output[0] = "z"
    proto.graph.node.append(node("Sigmoid", "z", "y"))
    with pytest.raises(OptionError, match="one class per sample"):
        Trainer(proto).gradients(np.zeros((2, 4), np.float32), [0, 1])


def test_divergence_is_told() -> None:
    x, y = stripes(32)
    with pytest.raises(SessionError, match="diverged in epoch"):
        Trainer(linear(2), "sgd", lr=1e30).fit(1e9 * x[:, 0, 0, :4], y, epochs=9, batch_size=8)


@pytest.mark.slow
def test_digits_from_scratch() -> None:
    """The development net of the digits reaches what it had (0.974) from new weights, within two points."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    folder = assets()
    if folder is None:
        pytest.skip("the development models are not here; name their folder in ONNXPLAIN_ASSETS")
    digits = datasets.load_digits()
    x, y = (digits.images / 16).astype(np.float32)[:, None], digits.target
    test = np.load(folder / "data" / "digits_test_index.npy")
    train = np.setdiff1d(np.arange(len(x)), test)
    trainer = Trainer(folder / "digits-cnn.onnx", threads=1)
    trainer.initialise(0)
    history = trainer.fit(x[train], y[train], epochs=20, batch_size=64)
    assert history.loss[-1] < 0.1
    assert trainer.accuracy(x[test], y[test]) > 0.955


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gunpoint-fcn", "sentiment-textcnn"])
def test_real_networks_learn_a_batch(name: str) -> None:
    """Series with BatchNormalization, texts with an embedding: six steps on the same four samples."""
    folder = assets()
    if folder is None:
        pytest.skip("the development models are not here; name their folder in ONNXPLAIN_ASSETS")
    trainer = Trainer(folder / f"{name}.onnx", lr=1e-3, threads=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 1, 150)).astype(np.float32) if name == "gunpoint-fcn" else rng.integers(0, 50, (4, 50))
    history = trainer.fit(x, np.arange(4) % 2, epochs=6, batch_size=4)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert trainer.untrained == []
