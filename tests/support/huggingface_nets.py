"""Small Hugging Face models with weights as trained ones have them, saved as directories."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
WORDS: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 40}
LABELS: dict[str, Any] = {
    "id2label": {0: "bad", 1: "so so", 2: "good"},
    "label2id": {"bad": 0, "so so": 1, "good": 2},
}


def bert() -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, **WORDS, **LABELS))


def distilbert() -> Any:
    config = transformers.DistilBertConfig(
        dim=16, n_layers=2, n_heads=2, hidden_dim=24, num_labels=2, vocab_size=50, max_position_embeddings=40
    )
    return transformers.DistilBertForSequenceClassification(config)


def roberta() -> Any:
    return transformers.RobertaForTokenClassification(
        transformers.RobertaConfig(**SIZES, **WORDS, **LABELS, type_vocab_size=1)
    )


def encoder() -> Any:
    """Without a head: two answers, no labels."""
    return transformers.BertModel(transformers.BertConfig(**SIZES, **WORDS))


def llama() -> Any:
    config = transformers.LlamaConfig(**SIZES, **WORDS, **LABELS, num_key_value_heads=1, pad_token_id=0)
    return transformers.LlamaForSequenceClassification(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40, vocab_size=50, pad_token_id=0)
    return transformers.GPT2ForSequenceClassification(config)


def vit() -> Any:
    config = transformers.ViTConfig(**SIZES, **LABELS, image_size=16, patch_size=4)
    return transformers.ViTForImageClassification(config)


def convnext() -> Any:
    config = transformers.ConvNextConfig(
        num_channels=3, hidden_sizes=[4, 6, 8, 8], depths=[1, 1, 1, 1], image_size=32, num_labels=3
    )
    return transformers.ConvNextForImageClassification(config)


def resnet() -> Any:
    """Its config does not say how large pictures are."""
    sizes: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "num_labels": 3}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))


MODELS = {made.__name__: made for made in (resnet, bert, distilbert, roberta, encoder, llama, gpt2, vit, convnext)}


def train(model: torch.nn.Module) -> torch.nn.Module:
    """Weights of the size that training leaves, none of them 0 or 1, so that a dropped or swapped one shows."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                fan = weight[0].numel() if "embed" not in name else 1
                weight.normal_(0, 1.2 / math.sqrt(fan))
            elif name.endswith("weight") or ("norm" in name.lower() and "bias" not in name):
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(0, 0.3)
    return model.eval()


def save(name: str, folder: Path) -> Any:
    """A trained model, and its directory."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = train(MODELS[name]())
    model.save_pretrained(folder)
    return model
