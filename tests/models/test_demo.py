"""The demo network as it ships: small, dynamic, BatchNormalization kept, and right about its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxplain.engine.cards import from_metadata, load_card
from onnxplain.engine.inputs import labels_from_metadata, read_picture
from onnxplain.models import demo_labels, demo_model, demo_samples


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(demo_model())


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(demo_model(), options, providers=["CPUExecutionProvider"])


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in model.metadata_props}


def test_the_folder_is_small() -> None:
    folder = demo_model().parent
    assert demo_model().stat().st_size < 1_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_100_000
    assert "Zalando SE" in (folder / "LICENSES.md").read_text(encoding="utf-8")


def test_file_form(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("BatchNormalization") == 6
    assert not any(item.data_location == onnx.TensorProto.EXTERNAL for item in model.graph.initializer)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_biases_of_every_kind_are_there_and_not_zero(model: onnx.ModelProto) -> None:
    values = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    last = {node.name: values[node.input[2]] for node in model.graph.node if len(node.input) >= 3}
    assert {"stem", "head", "block1.bn1"} <= set(last)
    assert all(np.abs(bias).max() > 1e-3 for bias in last.values())


def test_nothing_of_the_machine_that_wrote_it(model: onnx.ModelProto) -> None:
    raw = demo_model().read_bytes()
    for trace in (b"stack_trace", b"site-packages", b".py", b"/home", b"/root", b"/tmp", b"File "):
        assert trace not in raw
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_what_the_file_declares(model: onnx.ModelProto) -> None:
    notes = metadata(model)
    assert from_metadata(notes) == load_card("fashion-mnist").preprocessing
    assert labels_from_metadata(notes) == json.loads(notes["onnxplain.labels"]) == demo_labels()
    assert len(demo_labels()) == 10
    assert "Zalando" in notes["licence"]
    assert float(notes["onnxplain.test_accuracy"]) >= 0.91


def test_samples_are_classified_rightly(model: onnx.ModelProto, session: ort.InferenceSession) -> None:
    declared = from_metadata(metadata(model))
    assert declared is not None
    samples = demo_samples()
    assert len(samples) == 8
    assert len({sample.class_index for sample in samples}) == 8
    assert [demo_labels()[sample.class_index] for sample in samples] == [sample.class_name for sample in samples]
    batch = np.concatenate([declared.apply(read_picture(sample.path)) for sample in samples])
    (logits,) = session.run(["logits"], {"image": batch})
    assert logits.argmax(axis=1).tolist() == [sample.class_index for sample in samples]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert (odds.max(axis=1) / odds.sum(axis=1)).min() > 0.95  # the rule by which the pictures were chosen


def test_preprocessing_leaves_a_sample_as_it_is(model: onnx.ModelProto) -> None:
    """The pictures have the network's size already, so nothing but the division may happen."""
    import cv2

    declared = from_metadata(metadata(model))
    assert declared is not None
    for sample in demo_samples():
        stored = cv2.imread(str(sample.path), cv2.IMREAD_UNCHANGED)
        assert stored.shape == (28, 28)
        np.testing.assert_array_equal(declared.apply(read_picture(sample.path))[0, 0], np.float32(stored / 255))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_dynamic_batch_and_rows_that_do_not_mix(session: ort.InferenceSession, batch: int) -> None:
    x = np.random.default_rng(batch).uniform(size=(batch, 1, 28, 28)).astype(np.float32)
    (together,) = session.run(None, {"image": x})
    assert together.shape == (batch, 10)
    alone = np.concatenate([session.run(None, {"image": row[None]})[0] for row in x])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)  # float32, another order of summation


def test_paths_are_paths() -> None:
    assert isinstance(demo_model(), Path)
    assert all(sample.path.is_file() for sample in demo_samples())
