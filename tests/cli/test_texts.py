"""Texts on the command line: by the model's own tokeniser, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call, refused, saved, token_model

from onnxplain.cli.texts import Tokeniser, read_vocabulary
from onnxplain.engine.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film", "##s", "without", "plot", "good"]
IDS = {word: number for number, word in enumerate(WORDS)}
TEXT = (np.dtype(np.int64), (None, None))


def tokeniser(folder: Path) -> Path:
    """A WordPiece tokeniser of ten tokens, as BERT has them."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the text extra")
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(IDS, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(["[CLS]", "[SEP]"])
    made.enable_truncation(3)  # as saved with a training run: what is explained is the whole text
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_names_and_ids(tmp_path: Path) -> None:
    found = Tokeniser(tokeniser(tmp_path), {"input_ids": TEXT, "attention_mask": TEXT, "token_type_ids": TEXT})
    feeds = found.feeds("a films plot")
    np.testing.assert_array_equal(feeds["input_ids"], [[2, 4, 5, 6, 8, 3]])
    np.testing.assert_array_equal(feeds["attention_mask"], np.ones((1, 6)))
    np.testing.assert_array_equal(feeds["token_type_ids"], np.zeros((1, 6)))
    single = Tokeniser(tmp_path / "tokenizer.json", {"words": TEXT})
    np.testing.assert_array_equal(single.feeds("good")["words"], [[2, 9, 3]])


def test_a_fixed_length_is_filled_and_masked(tmp_path: Path) -> None:
    fixed = (np.dtype(np.int64), ("N", 5))
    found = Tokeniser(tokeniser(tmp_path), {"input_ids": fixed, "attention_mask": fixed})
    feeds = found.feeds("good")
    np.testing.assert_array_equal(feeds["input_ids"], [[2, 9, 3, 0, 0]])
    np.testing.assert_array_equal(feeds["attention_mask"], [[1, 1, 1, 0, 0]])
    with pytest.raises(InputError, match="has 6 tokens, the model takes 5"):
        found.feeds("a film without plot")


@pytest.mark.parametrize("path", [None, "vocab.txt", "none"])
def test_no_tokeniser(path: str | None, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a")
    with pytest.raises(InputError, match=r"by the model's own tokenizer\.json"):
        Tokeniser(tmp_path / path if path else None, {"input_ids": TEXT})


def test_models_that_take_more_than_tokens_and_damaged_files(tmp_path: Path) -> None:
    folder = tokeniser(tmp_path)
    with pytest.raises(InputError, match="input pixel_values is nothing that a tokeniser gives"):
        Tokeniser(folder, {"input_ids": TEXT, "pixel_values": (np.dtype(np.float32), None)})
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is no tokeniser"):
        Tokeniser(folder, {"input_ids": TEXT})


VOCABULARIES: dict[str, tuple[str, Any]] = {
    "object": ("v.json", IDS),
    "list": ("v.json", WORDS),
    "lines": ("v.txt", WORDS),
    "word pieces": ("tokenizer.json", {"model": {"vocab": dict(list(IDS.items())[2:])}, "added_tokens": [
        {"id": 0, "content": "[PAD]"}, {"id": 1, "content": "[UNK]"}
    ]}),
    "unigrams": ("tokenizer.json", {"model": {"vocab": [[word, -1.5] for word in WORDS]}, "added_tokens": []}),
}  # fmt: skip


@pytest.mark.parametrize("form", VOCABULARIES)
def test_vocabularies(form: str, tmp_path: Path) -> None:
    name, content = VOCABULARIES[form]
    (tmp_path / name).write_text("\n".join(content) if name.endswith("txt") else json.dumps(content))
    assert read_vocabulary(tmp_path / name) == dict(enumerate(WORDS))
    if name == "tokenizer.json":
        assert read_vocabulary(tmp_path) == dict(enumerate(WORDS))


@pytest.mark.parametrize("content", ["{", '{"a": "b"}', "3", '{"model": {}}'])
def test_bad_vocabularies(content: str, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(InputError, match="vocabulary"):
        read_vocabulary(tmp_path / "v.json")


# ----- the command line -------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return saved(token_model(), tmp_path / "net.onnx")


def test_sentences_are_explained_word_by_word(network: Path, tmp_path: Path) -> None:
    folder = tokeniser(tmp_path)
    texts = ("a film a", "film", "a a a")
    given = [part for text in texts for part in ("--text", text)]
    figure = tmp_path / "why.png"
    document = json.loads(call("explain", network, *given, "--tokens", folder, "-o", figure, "--json").stdout)
    assert document["kind"] == "tokens"
    assert [sample["name"] for sample in document["methods"][0]["samples"]] == ["text 1", "text 2", "text 3"]
    assert figure.stat().st_size > 0
    printed = call("explain", network, "--text", texts[0], "--tokens", folder).stdout
    assert "film" in printed and "[CLS]" in printed


def test_nothing_to_explain(network: Path) -> None:
    assert "give INPUTS" in refused("explain", network)
    assert "by the model's own tokenizer.json" in refused("explain", network, "--text", "good")
