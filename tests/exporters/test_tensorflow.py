"""TensorFlow export: what the file holds and answers, and what is refused.

The files are read back with `onnx` and run with `onnxruntime` here, apart from the exporter's own check.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

tf = pytest.importorskip("tensorflow", reason="needs the tensorflow extra")
pytest.importorskip("tf2onnx", reason="needs the tensorflow extra")
import keras  # noqa: E402
from keras import layers  # noqa: E402
from keras_nets import (  # noqa: E402
    TOLERANCE,
    convolutional,
    operators,
    recurrent,
    relative,
    sequential,
    series,
    session,
    transformer,
    weights,
)

from onnxplain.engine.errors import ExportError, InputError, OptionError, OutputError  # noqa: E402
from onnxplain.exporters import export, writing  # noqa: E402

pytestmark = [
    pytest.mark.tensorflow,
    # TensorFlow and Keras use what numpy deprecates; this package's own warnings are errors as ever.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


NETS = {"convolutional": convolutional, "sequential": sequential, "series": series, "transformer": transformer}


@pytest.mark.parametrize("fold", [False, True], ids=["kept", "fold"])
@pytest.mark.parametrize("name", NETS)
def test_file_answers_like_the_model_at_every_batch_size(name: str, fold: bool, tmp_path: Path) -> None:
    model = NETS[name]()
    shape = model.inputs[0].shape[1:]
    report = export(model, None, tmp_path / "m.onnx", fold=fold)
    assert (report.opset, report.ir_version) == (18, 10)
    assert report.inputs[0].shape == ("batch", *shape)
    assert report.outputs[0].shape[0] == "batch"
    assert report.batch_sizes == (2, 3)
    runtime = session(report.path)
    for size in (1, 2, 5):
        x = draw(size, *shape)
        (answer,) = runtime.run(None, {report.inputs[0].name: x})
        assert relative(answer, model(x, training=False)) < TOLERANCE
    onnx.checker.check_model(str(report.path), full_check=True)


# --- what is kept -----------------------------------------------------------------------------------


def test_normalisations_and_biases_are_kept_by_name(tmp_path: Path) -> None:
    model = convolutional()
    report = export(model, None, tmp_path / "m.onnx")
    assert operators(report.path)["BatchNormalization"] == 3
    assert report.folded == ()
    found = weights(report.path)
    own = {f"{layer.name}/{weight.name}": np.asarray(weight) for layer in model.layers for weight in layer.weights}
    assert set(own) <= set(found)
    for name, value in own.items():
        if name.endswith("kernel") and value.ndim == 4:
            depthwise = name in ("dw/kernel", "sep/depthwise_kernel")
            value = value.transpose(2, 3, 0, 1) if depthwise else value.transpose(3, 2, 0, 1)
            value = value.reshape(-1, 1, *value.shape[2:]) if depthwise else value
        np.testing.assert_array_equal(found[name].reshape(value.shape), value, err_msg=name)


def test_biases_of_zero_and_equal_weights_are_kept(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=f"d{i}") for i in range(3))])
    found = weights(export(model, None, tmp_path / "m.onnx").path)
    assert {f"d{i}/bias" for i in range(3)} <= set(found)
    assert not found["d1/bias"].any()


def test_fold_merges_the_normalisations_and_says_so(tmp_path: Path) -> None:
    report = export(convolutional(), None, tmp_path / "m.onnx", fold=True)
    left = operators(report.path)["BatchNormalization"]  # the one behind gelu has no layer to go into
    assert left == 1
    assert [str(fold) for fold in report.folded] == [f"BatchNormalization: 3 -> {left}"]


def test_nodes_and_weights_have_the_names_of_their_layers(tmp_path: Path) -> None:
    graph = onnx.load(export(series(), None, tmp_path / "m.onnx").path).graph
    nodes = {node.op_type: node.name for node in graph.node}
    assert nodes["Conv"].startswith("inner/conv/")
    assert nodes["BatchNormalization"].startswith("inner/bn/")
    assert nodes["MatMul"].startswith("head/")
    assert {"inner/conv/kernel", "inner/conv/bias", "inner/bn/gamma", "head/kernel"} <= set(
        weights(tmp_path / "m.onnx")
    )
    for node in graph.node:
        assert all(name in {o.name for o in graph.output} or name.split(":")[0] == node.name for name in node.output)


def test_layers_whose_names_differ_by_a_number_are_told_apart(tmp_path: Path) -> None:
    model = sequential()
    found = weights(export(model, None, tmp_path / "m.onnx").path)
    for layer in (model.layers[-2], model.layers[-1]):
        np.testing.assert_array_equal(found[f"{layer.name}/kernel"], np.asarray(layer.kernel))


def test_gelu_is_written_with_erf(tmp_path: Path) -> None:
    count = operators(export(transformer(), None, tmp_path / "m.onnx").path)
    assert count["Erf"] == 2
    assert count["Erfc"] == 0


def test_constants_of_a_normalization_layer_are_no_inputs(tmp_path: Path) -> None:
    adapted = layers.Normalization()
    adapted.adapt(draw(50, 3))
    given = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[2.0, 3.0, 4.0])
    model = keras.Sequential([keras.Input((3,), name="x"), given, adapted, layers.Dense(2)])
    report = export(model, None, tmp_path / "m.onnx")
    assert [tensor.name for tensor in report.inputs] == ["x"]
    x = draw(4, 3)
    assert relative(session(report.path).run(None, {"x": x})[0], model(x)) < TOLERANCE


@pytest.mark.parametrize(("kind", "operator"), [("GRU", "Loop"), ("LSTM", "LSTM")])
def test_recurrent_layers_come_as_they_are_or_unrolled(kind: str, operator: str, tmp_path: Path) -> None:
    layer = getattr(layers, kind)
    model = recurrent(layers.Bidirectional(layer(4, return_sequences=True)), layer(3))
    report = export(model, None, tmp_path / "m.onnx")
    assert report.operators[operator] >= 2
    plain = export(model, None, tmp_path / "n.onnx", unroll=True)
    assert operator not in plain.operators
    assert not model.layers[1].unroll
    x = draw(3, 7, 3)
    for path in (report.path, plain.path):
        assert relative(session(path).run(None, {"steps": x})[0], model(x)) < TOLERANCE


# --- layout, axes, types ------------------------------------------------------------------------------


def test_pictures_as_nchw(tmp_path: Path) -> None:
    model = convolutional()
    report = export(model, None, tmp_path / "m.onnx", layout="channels_first")
    assert report.inputs[0].shape == ("batch", 3, 12, 10)
    assert "NCHW" in report.notes[0]
    x = draw(2, 12, 10, 3)
    (answer,) = session(report.path).run(None, {"image": x.transpose(0, 3, 1, 2).copy()})
    assert relative(answer, model(x)) < TOLERANCE
    plain = export(model, None, tmp_path / "n.onnx")
    assert report.operators["Transpose"] == plain.operators["Transpose"] - 1  # none but the one before pooling


def test_open_axes(tmp_path: Path) -> None:
    x = keras.Input((None, None, 2), name="image")
    model = keras.Model(x, layers.GlobalMaxPooling2D()(layers.Conv2D(3, 3, padding="same", strides=2)(x)))
    fixed = export(model, draw(2, 8, 6, 2), tmp_path / "m.onnx")
    assert fixed.inputs[0].shape == ("batch", 8, 6, 2)
    report = export(model, draw(2, 8, 6, 2), tmp_path / "m.onnx", open_axes=True)
    assert report.inputs[0].shape == ("batch", "image_1", "image_2", 2)
    x = draw(3, 9, 11, 2)
    assert relative(session(report.path).run(None, {"image": x})[0], model(x)) < TOLERANCE
    with pytest.raises(InputError, match="leaves the size of its input image open"):
        export(model, None, tmp_path / "n.onnx")


def test_fixed_batch(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input(batch_shape=(2, 3)), layers.Dense(2)])
    with pytest.raises(ExportError, match=r"fixes the first axis of input.*dynamic_batch=False"):
        export(model, None, tmp_path / "m.onnx")
    assert export(model, None, tmp_path / "m.onnx", dynamic_batch=False).inputs[0].shape == (2, 3)


def test_ids_and_an_embedding(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((5,), dtype="int32", name="ids"), layers.Embedding(20, 4), layers.Flatten()])
    report = export(model, np.random.default_rng(0).integers(0, 20, (2, 5)), tmp_path / "m.onnx")
    assert report.inputs[0].dtype == "int32"
    ids = np.array([[1, 19, 0, 7, 7]], np.int32)
    np.testing.assert_array_equal(session(report.path).run(None, {"ids": ids})[0], np.asarray(model(ids)))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_types_are_kept(dtype: str, tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((4,), dtype=dtype), layers.Dense(3, dtype=dtype), layers.BatchNormalization(dtype=dtype)]
    )
    report = export(model, None, tmp_path / "m.onnx")
    assert [t.dtype for t in (*report.inputs, *report.outputs)] == [dtype, dtype]


# --- kinds of model -----------------------------------------------------------------------------------


class Subclassed(keras.Model):
    """Answers with a dict, and differs in training."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3, name="dense")
        self.bn = layers.BatchNormalization(name="bn")

    def call(self, x: Any, mask_input: Any = None, training: bool = False) -> dict[str, Any]:
        hidden = self.bn(self.dense(x), training=training)
        if mask_input is not None:
            hidden = hidden * mask_input
        return {"logits": tf.nn.relu(hidden), "hidden": hidden}


def test_subclassed_model_that_was_never_called(tmp_path: Path) -> None:
    report = export(Subclassed(), np.random.default_rng(0).random((2, 4)), tmp_path / "m.onnx")
    assert [t.name for t in report.inputs] == ["x"]
    assert [t.dtype for t in report.inputs] == ["float32"]
    assert [t.name for t in report.outputs] == ["hidden", "logits"]
    assert report.operators["BatchNormalization"] == 1


def test_several_inputs_by_position_and_by_name(tmp_path: Path) -> None:
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    joined = layers.Concatenate()([first, second])
    for inputs in ([first, second], {"first": first, "second": second}):
        model = keras.Model(inputs, [layers.Dense(2, name="a")(joined), layers.Dense(1, name="b")(second)])
        x = {"second": draw(2, 3), "first": draw(2, 4)}
        for sample in (x, (x["first"], x["second"])):
            report = export(model, sample, tmp_path / "m.onnx")
            assert [t.name for t in report.inputs] == ["first", "second"]
            assert [t.name for t in report.outputs] == ["a", "b"]
        assert export(Subclassed(), (draw(2, 4), draw(2, 3)), tmp_path / "n.onnx").inputs[1].name == "mask_input"
    with pytest.raises(InputError, match=r"use its names"):
        export(model, {"first": x["first"]}, tmp_path / "m.onnx")


def test_functions_and_modules(tmp_path: Path) -> None:
    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(draw(4, 2))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return tf.matmul(x, self.w)

    module, x = Module(), draw(3, 4)
    traced = tf.function(lambda x: tf.sin(x) @ module.w).get_concrete_function(
        tf.TensorSpec([None, 4], tf.float32, "x")
    )
    for function, expected in ((module, module(x)), (traced, traced(tf.constant(x))), (module.__call__, module(x))):
        report = export(function, x, tmp_path / "m.onnx")
        assert report.outputs[0].name == "output"
        assert relative(session(report.path).run(None, {report.inputs[0].name: x})[0], expected) < TOLERANCE


def test_names_of_the_users(tmp_path: Path) -> None:
    report = export(transformer(), None, tmp_path / "m.onnx", input_names=["x"], output_names=["y"])
    assert (report.inputs[0].name, report.outputs[0].name) == ("x", "y")
    with pytest.raises(OptionError, match="output_names has 2 names, the model has 1"):
        export(transformer(), None, tmp_path / "m.onnx", output_names=["a", "b"])


@pytest.mark.parametrize("opset", [13, 15, 17])
def test_older_opsets(opset: int, tmp_path: Path) -> None:
    model = convolutional()
    report = export(model, None, tmp_path / "m.onnx", opset=opset)
    assert [(entry.domain, entry.version) for entry in onnx.load(report.path).opset_import] == [("", opset)]
    x = draw(4, 12, 10, 3)
    assert relative(session(report.path).run(None, {"image": x})[0], model(x)) < TOLERANCE


# --- what is left behind ------------------------------------------------------------------------------


def test_the_same_export_gives_the_same_bytes(tmp_path: Path) -> None:
    for model in (transformer(), recurrent(layers.GRU(3))):
        first, second = (export(model, None, tmp_path / name) for name in ("a.onnx", "b.onnx"))
        assert first.sha256 == second.sha256


def test_keras_is_as_it_was_before(tmp_path: Path) -> None:
    before = keras.layers.Layer.__call__, keras.layers.BatchNormalization.call
    export(convolutional(), None, tmp_path / "m.onnx")
    broken = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: tf.linalg.svd(x[:, None] * x[..., None])[0])])
    with pytest.raises(ExportError, match=r"no operator .*Svd"):
        export(broken, None, tmp_path / "n.onnx")
    assert (keras.layers.Layer.__call__, keras.layers.BatchNormalization.call) == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_the_exporter_is_silent_and_nothing_private_is_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        export(convolutional(), None, tmp_path / "m.onnx")
    captured = capsys.readouterr()
    assert (captured.out, captured.err, seen) == ("", "", [])
    content = (tmp_path / "m.onnx").read_bytes()
    for private in (str(Path(__file__).parent), "site-packages", str(tmp_path), ".layer", "frozen"):
        assert private.encode() not in content, private


# --- refusals -----------------------------------------------------------------------------------------


def test_disagreement_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writing.write

    def spoil(model: Any, path: Path, external_data: bool | None) -> dict[str, str]:
        value = model.graph.initializers["logits/bias"]
        value.const_value = ir.tensor(value.const_value.numpy() + np.float32(0.1), name=value.name)
        return write(model, path, external_data)

    monkeypatch.setattr(writing, "write", spoil)
    with pytest.raises(ExportError, match="differs from the framework's by"):
        export(convolutional(), None, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x + tf.random.uniform(tf.shape(x)), "no operator|differs from the framework's"),
        (lambda x: None, "the model returns nothing"),
        (lambda x: x * float("nan"), "NaN or infinite throughout"),
        (lambda x: tf.reshape(x, (5, 5)), "the model itself fails"),
        (lambda x: x + tf.reshape(tf.range(8.0), (2, 4)), "the model itself fails|cannot trace"),
    ],
    ids=["random", "nothing", "nan", "fails", "one_batch_size"],
)
def test_models_that_cannot_be_exported(function: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(ExportError, match=message):
        export(tf.function(function), draw(2, 4), tmp_path / "m.onnx")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"m.onnx": b"old"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 19}, "opset 19 .* 13 to 18"),
        ({"layout": "NCHW"}, "layout 'NCHW' is unknown"),
        ({"dynamic_shapes": {}}, "the tensorflow exporter has no option 'dynamic_shapes'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        export(sequential(), None, tmp_path / "m.onnx", **options)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("picture.png", "a value of type str"),
        ((), "the sample has 0 arrays"),
        (draw(1, 8, 8, 3), r"input input has shape \(None, 8, 8, 1\), the sample has \(1, 8, 8, 3\)"),
        ((draw(1, 8, 8, 1), draw(1, 8, 8, 1)), "the sample has 2 arrays, the model takes 1"),
    ],
    ids=["text", "empty", "shape", "too_many"],
)
def test_samples_that_do_not_fit(sample: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(sequential(), sample, tmp_path / "m.onnx")


def test_a_keras_that_runs_on_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sequential()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match=r"runs on jax; save the model as \.keras"):
        export(model, None, tmp_path / "m.onnx")


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="make it first"):
        export(sequential(), None, tmp_path / "no" / "m.onnx")
