"""What preprocessor_config.json says, against the numbers that transformers' own processors give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxplain.engine.errors import ExportError
from onnxplain.exporters.huggingface_processing import class_names, preprocessing_of

VIT = {
    "do_resize": True,
    "size": {"height": 32, "width": 24},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}
CLIP = VIT | {
    "size": {"shortest_edge": 40},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "do_convert_rgb": True,
}
CONVNEXT = VIT | {"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "stretched": ("ViTImageProcessorPil", VIT),
    "cropped": ("CLIPImageProcessorPil", CLIP),
    "convnext": ("ConvNextImageProcessorPil", CONVNEXT),
    "convnext, large": ("ConvNextImageProcessorPil", CONVNEXT | {"size": {"shortest_edge": 384}}),
    "pixels": (
        "ViTImageProcessorPil",
        VIT | {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    ),
    "plain": ("ViTImageProcessorPil", VIT | {"do_normalize": False}),
}


def write(folder: Path, content: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.torch
@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_become_what_the_processor_makes_of_them(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the huggingface extra")
    pytest.importorskip("PIL", reason="transformers prepares pictures with Pillow")
    kind, declared = PROCESSORS[name]
    made = getattr(transformers, kind)(**declared)
    made.save_pretrained(tmp_path)
    preprocessing, why = preprocessing_of(tmp_path)
    assert why == ""
    assert preprocessing is not None
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.standard_normal((90, 120, 3)), 0), 1)  # as pictures are: no noise to alias
    picture = np.rint(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    expected = made(picture, return_tensors="np")["pixel_values"]
    answer = preprocessing.apply(picture)
    assert answer.shape == expected.shape
    step = preprocessing.scale / min(preprocessing.std)  # one level of a pixel: the two round to whole levels apart
    assert np.abs(answer - expected).max() <= 1.01 * step


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_pad": True}, "do_pad has no counterpart"),
        ({"resample": 5}, "resample 5"),
        ({"size": {"longest_edge": 9}}, "size"),
        ({"size": {"shortest_edge": 9}}, "pictures of any shape"),
        ({"do_center_crop": True, "crop_size": {"height": 9, "width": 9}}, "a crop of"),
        ({"image_mean": None}, "unknown form|float"),
        ({"image_std": [0, 1, 1]}, "std"),
        ({"rescale_offset": True}, "rescale_offset"),
    ],
)
def test_what_has_no_counterpart_is_left_out_with_its_reason(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    preprocessing, why = preprocessing_of(write(tmp_path, VIT | changes))
    assert preprocessing is None
    assert re.search(words, why), why


def test_channels_turned_around_and_files_of_other_forms(tmp_path: Path) -> None:
    found, _ = preprocessing_of(write(tmp_path, {"image_processor": VIT | {"do_flip_channel_order": True}}))
    assert found is not None
    assert found.channel_order == "BGR"
    found, _ = preprocessing_of(write(tmp_path, VIT | {"size": 24}))
    assert found is not None
    assert found.size == (24, 24)
    with pytest.raises(ExportError, match="is no JSON object"):
        preprocessing_of(write(tmp_path, [1]))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ExportError, match="cannot be read"):
        preprocessing_of(tmp_path)


def test_class_names() -> None:
    assert class_names({"1": "dog", "0": "cat"}, 2) == ["cat", "dog"]
    assert class_names({0: "cat", 1: "dog"}, 2) == ["cat", "dog"]
    assert class_names({0: "LABEL_0", 1: "LABEL_1"}, 2) is None
    assert class_names({0: "cat"}, 2) is None
    assert class_names({"a": "cat"}, 1) is None
    assert class_names(None, 2) is None
