"""Hugging Face directories: what the file answers and says of itself, and which directories are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import call, refused

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the huggingface extra")
from huggingface_nets import MODELS, save  # noqa: E402
from torch_nets import relative, session  # noqa: E402

import onnxplain as ox  # noqa: E402
from onnxplain.engine.cards import from_metadata  # noqa: E402
from onnxplain.engine.errors import ExportError, InputError  # noqa: E402
from onnxplain.exporters.huggingface import load  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of transformers itself
]
TOLERANCE = 1e-5  # relative; two layers in float32


def texts(rows: int, length: int, *names: str) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(rows)
    made = {
        "input_ids": rng.integers(1, 50, (rows, length)),
        "attention_mask": np.ones((rows, length), np.int64),
        "token_type_ids": rng.integers(0, 2, (rows, length)),
    }
    made["attention_mask"][0, length - 2 :] = 0
    made["input_ids"][0, length - 2 :] = 0
    return {name: made[name] for name in names}


INPUTS = {
    "bert": ("input_ids", "attention_mask", "token_type_ids"),
    "distilbert": ("input_ids", "attention_mask"),
    "roberta": ("input_ids", "attention_mask"),
    "encoder": ("input_ids", "attention_mask", "token_type_ids"),
    "llama": ("input_ids", "attention_mask"),
    "gpt2": ("input_ids", "attention_mask"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_texts_of_any_length(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path / "net")
    report = ox.export(tmp_path / "net", None, tmp_path / "m.onnx")
    assert [(tensor.name, tensor.shape) for tensor in report.inputs] == [
        (name, ("batch", "sequence")) for name in INPUTS[name]
    ]
    runtime = session(report.path)
    for rows, length in ((1, 3), (4, 17)):
        feeds = texts(rows, length, *INPUTS[name])
        with torch.no_grad():
            expected = model(**{key: torch.from_numpy(value) for key, value in feeds.items()}, use_cache=False)
        assert [tensor.name for tensor in report.outputs] == list(expected.keys())
        for key, answer in zip(expected, runtime.run(list(expected), feeds), strict=True):
            assert relative(answer, expected[key]) < TOLERANCE


@pytest.mark.parametrize(("name", "shape"), [("vit", (3, 16, 16)), ("convnext", (3, 32, 32))])
def test_pictures(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    model = save(name, tmp_path / "net")
    report = ox.export(tmp_path / "net", None, tmp_path / "m.onnx")
    assert report.inputs[0].shape == ("batch", *shape)
    assert any("preprocessor_config.json" in note for note in report.notes)
    x = torch.randn(3, *shape)
    (answer,) = session(report.path).run(["logits"], {"pixel_values": x.numpy()})
    with torch.no_grad():
        assert relative(answer, model(x).logits) < TOLERANCE


def test_the_size_of_pictures_is_the_processors_where_the_config_has_none(tmp_path: Path) -> None:
    save("resnet", tmp_path / "net")
    with pytest.raises(InputError, match="how large pictures are"):
        ox.export(tmp_path / "net", None, tmp_path / "m.onnx")
    declared = {"size": {"height": 24, "width": 20}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(declared))
    report = ox.export(tmp_path / "net", None, tmp_path / "m.onnx")
    assert report.inputs[0].shape == ("batch", 3, 24, 20)
    assert report.operators["BatchNormalization"] == 8
    stored = from_metadata(ox.load(report.path).metadata)
    assert stored is not None
    assert (stored.size, stored.resize, stored.mean, stored.std) == ((24, 20), "stretch", (0.5,) * 3, (0.25,) * 3)


def test_names_of_layers_weights_and_classes_are_in_the_file(tmp_path: Path) -> None:
    model = save("bert", tmp_path / "net")
    ox.export(tmp_path / "net", None, tmp_path / "m.onnx")
    file = onnx.load(tmp_path / "m.onnx")
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in file.graph.initializer}
    for name, value in model.state_dict().items():
        kept = weights[name] if name in weights else weights[f"{name}.T"].T  # what MatMul takes is turned
        np.testing.assert_array_equal(kept, value.numpy(), err_msg=name)
    scopes = {entry.value for node in file.graph.node for entry in node.metadata_props if "name_scopes" in entry.key}
    assert any("bert.encoder.layer.1.attention.self.query" in scope for scope in scopes)
    assert json.loads(ox.load(tmp_path / "m.onnx").metadata["onnxplain.labels"]) == ["bad", "so so", "good"]
    assert "/" not in " ".join(entry.value for node in file.graph.node for entry in node.metadata_props)  # paths


def test_numbered_classes_are_no_names(tmp_path: Path) -> None:
    save("distilbert", tmp_path / "net")
    ox.export(tmp_path / "net", None, tmp_path / "m.onnx")
    assert "onnxplain.labels" not in ox.load(tmp_path / "m.onnx").metadata


def test_shards_old_files_half_precision_and_one_row(tmp_path: Path) -> None:
    model = save("bert", tmp_path / "net")
    model.save_pretrained(tmp_path / "shards", max_shard_size="8kB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(tmp_path / "net" / "config.json", old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    for folder in ("shards", "old"):
        loaded, notes = load(tmp_path / folder)
        assert notes == []
        for name, value in loaded.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name
    model.half().save_pretrained(tmp_path / "half")
    report = ox.export(tmp_path / "half", None, tmp_path / "half.onnx", dynamic_batch=False)
    assert report.inputs[0].shape == (1, "sequence")
    assert any("stored as float16" in note for note in report.notes)


def test_a_model_and_a_sample_of_the_users(tmp_path: Path) -> None:
    model = save("bert", tmp_path / "net")
    model.train()
    model.config.use_cache = True
    report = ox.export(model, texts(2, 6, "input_ids"), tmp_path / "m.onnx")
    assert [tensor.name for tensor in report.inputs] == ["input_ids"]
    assert model.training and model.config.use_cache
    again = ox.export(model, tuple(texts(2, 6, "input_ids", "attention_mask").values()), tmp_path / "m.onnx")
    assert [tensor.name for tensor in again.inputs] == ["input_ids", "attention_mask"]
    with pytest.raises(InputError, match="4 arrays, the model takes"):
        ox.export(model, (np.zeros((2, 6), np.int64),) * 4, tmp_path / "m.onnx")


# ----- what is refused ------------------------------------------------------------------------------


def change(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def test_directories_that_need_code_of_their_own(tmp_path: Path) -> None:
    save("vit", tmp_path / "net")
    (tmp_path / "net" / "modeling.py").write_text("raise SystemExit('ran')")
    change(tmp_path / "net", architectures=["OwnNet"], model_type="own", auto_map={"AutoModel": "modeling.OwnNet"})
    message = refused("export", tmp_path / "net", "-o", tmp_path / "m.onnx")
    assert "is of class OwnNet: its code lies in the directory (auto_map) and is never run" in message
    change(tmp_path / "net", auto_map=None)
    assert "does not have it" in refused("export", tmp_path / "net", "-o", tmp_path / "m.onnx")


def test_incomplete_directories(tmp_path: Path) -> None:
    folder, out = tmp_path / "net", tmp_path / "m.onnx"
    model = save("vit", folder)
    change(folder, quantization_config={"bits": 8})
    assert "quantised weights" in refused("export", folder, "-o", out)
    change(folder, quantization_config=None, num_labels=7, id2label=None, label2id=None)
    assert "of another shape (classifier.bias, classifier.weight)" in refused("export", folder, "-o", out)
    save("encoder", folder)
    change(folder, architectures=["BertForSequenceClassification"])
    assert "2 weights of BertForSequenceClassification are missing (classifier" in refused("export", folder, "-o", out)
    (folder / "model.safetensors").unlink()
    assert "cannot be loaded as BertForSequenceClassification" in refused("export", folder, "-o", out)
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "cannot be loaded as" in refused("export", folder, "-o", out)
    assert not out.exists()
    assert model.main_input_name == "pixel_values"


def test_models_whose_input_cannot_be_drawn(tmp_path: Path) -> None:
    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=50)
    with pytest.raises(InputError, match="takes an encoder and a decoder"):
        ox.export(transformers.T5ForConditionalGeneration(config), None, tmp_path / "m.onnx")


def test_a_language_model_without_padding_takes_one_row(tmp_path: Path) -> None:
    model = MODELS["gpt2"]()
    model.config.pad_token_id = None
    with pytest.raises(ExportError, match="no padding token"):
        ox.export(model, None, tmp_path / "m.onnx")
    ox.export(model, None, tmp_path / "m.onnx", dynamic_batch=False)


def test_the_command_line_explains_a_directorys_text(tmp_path: Path) -> None:
    save("bert", tmp_path / "net")
    result = call("export", tmp_path / "net", "-o", tmp_path / "m.onnx")
    assert result.exit_code == 0, result.stderr
    assert "batchxsequence" in result.stdout
    np.savez(tmp_path / "text.npz", **texts(1, 9, *INPUTS["bert"]))
    document = json.loads(call("explain", tmp_path / "m.onnx", tmp_path / "text.npz", "--json").stdout)
    assert document["kind"] == "tokens"
    assert document["methods"][0]["samples"][0]["label"] in ("bad", "so so", "good")
