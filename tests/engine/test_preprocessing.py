"""The preprocessing itself: numbers against Pillow and plain numpy, and the promise that view and apply agree."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnxplain.engine.cards import from_mapping, load_card
from onnxplain.engine.errors import InputError, OptionError
from onnxplain.engine.preprocessing import Preprocessing
from onnxplain.models import cards


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """A smooth colour field with mid-range values, 300 x 451: no clipping inside Pillow's two passes."""
    y, x = np.mgrid[0:300, 0:451] / 40.0
    channels = [np.sin(x + k) * np.cos(y * (k + 1) / 2) for k in range(3)]
    return (127 + 80 * np.stack(channels, axis=2)).astype(np.uint8)


def pillow_crop(picture: NDArray[np.uint8], filter_: Image.Resampling) -> NDArray[np.float64]:
    """Shorter side 256, centre 224: for 300 x 451 that is 256 x 384 and the crop from (16, 80)."""
    resized = np.asarray(Image.fromarray(picture).resize((384, 256), filter_))
    return resized[16:240, 80:304].astype(np.float64)


def test_imagenet_is_torchvisions(picture: NDArray[np.uint8]) -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((pillow_crop(picture, Image.Resampling.BILINEAR) / 255 - mean) / std).transpose(2, 0, 1)[None]
    x = load_card("imagenet").preprocessing.apply(picture)
    assert x.shape == (1, 3, 224, 224)
    assert x.dtype == np.float32
    # one level of 255, which Pillow's rounding between its passes may move, over the smallest std
    assert np.abs(x - expected).max() <= 1 / 255 / 0.224 + 1e-6


def test_efficientnet_lite(picture: NDArray[np.uint8]) -> None:
    expected = ((pillow_crop(picture, Image.Resampling.BICUBIC) - 127) / 128).transpose(2, 0, 1)[None]
    x = load_card("efficientnet-lite").preprocessing.apply(picture)
    assert np.abs(x - expected).max() <= 1 / 128 + 1e-6  # one level, as above


def test_keras_caffe_is_bgr_in_pixel_units() -> None:
    red = np.full((10, 10, 3), (200, 100, 50), np.uint8)
    x = load_card("keras-caffe").preprocessing.apply(red)
    assert x.shape == (1, 224, 224, 3)
    np.testing.assert_allclose(x[0, 5, 5], [50 - 103.939, 100 - 116.779, 200 - 123.68], rtol=1e-6)  # float32


def test_tf_range_is_minus_one_to_one() -> None:
    p = load_card("imagenet-tf").preprocessing
    ends = [p.apply(np.full((9, 9, 3), v, np.uint8)) for v in (0, 255)]
    assert [float(np.unique(x)[0]) for x in ends] == [-1.0, 1.0]


@pytest.mark.parametrize("name", sorted(cards()))
def test_apply_is_the_normalisation_of_view(name: str, picture: NDArray[np.uint8]) -> None:
    p = load_card(name).preprocessing
    x, view = p.apply(picture), p.view(picture)
    assert view.dtype == np.uint8
    assert view.shape == (*(p.size or picture.shape[:2]), 3)
    assert all(wanted in (None, got) for wanted, got in zip(p.input_shape, x.shape, strict=True))
    by_hand = view.astype(np.float64)[..., {"RGB": [0, 1, 2], "BGR": [2, 1, 0], "GRAY": [0]}[p.channel_order]]
    by_hand = (by_hand * p.scale - np.array(p.mean)) / np.array(p.std)
    by_hand = by_hand.transpose(2, 0, 1) if p.layout == "NCHW" else by_hand
    np.testing.assert_allclose(x[0], by_hand, rtol=1e-6, atol=1e-6)  # float32 of the same float64 numbers


@pytest.mark.parametrize("name", sorted(cards()))
def test_to_pixels_gives_the_view_back(name: str, picture: NDArray[np.uint8]) -> None:
    p = load_card(name).preprocessing
    x = p.apply(picture)
    np.testing.assert_array_equal(p.to_pixels(x)[0], p.view(picture))
    np.testing.assert_array_equal(p.to_pixels(x[0]), p.view(picture))


def test_to_pixels_clips_and_refuses() -> None:
    p = Preprocessing(scale=1 / 255)
    assert np.unique(p.to_pixels(np.full((1, 3, 2, 2), 7.0, np.float32))) == [255]
    with pytest.raises(InputError, match=r"NCHW with 3 channel"):
        p.to_pixels(np.zeros((1, 2, 2, 3), np.float32))


def test_grey_has_the_luma_weights_and_stays_exact_on_grey() -> None:
    p = Preprocessing(channel_order="GRAY")
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 30]]], np.uint8)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(p.apply(colour)[0, 0, 0] - luma[0]).max() <= 0.51  # rounding to 8 bits
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(p.view(ramp), ramp)


def test_invert_is_seen_in_view_and_array() -> None:
    p = Preprocessing(channel_order="GRAY", invert=True, scale=1 / 255)
    paper = np.full((4, 4, 3), 255, np.uint8)
    assert not p.apply(paper).any()
    assert not p.view(paper).any()


def test_letterbox_pads_what_is_left() -> None:
    p = Preprocessing(size=(64, 64), resize="letterbox", pad=114)
    view = p.view(np.full((32, 64, 3), 200, np.uint8))
    assert (view[:16] == 114).all()
    assert (view[16:48] == 200).all()
    assert (view[48:] == 114).all()


def test_stretch_keeps_everything() -> None:
    halves = np.zeros((10, 40, 3), np.uint8)
    halves[:, 20:] = 255
    view = Preprocessing(size=(16, 16), resize="stretch").view(halves)
    assert (view[:, :7] == 0).all()
    assert (view[:, 9:] == 255).all()


def test_view_does_not_alias_the_picture() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    Preprocessing().view(picture)[:] = 9
    assert not picture.any()


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8"])
def test_other_dtypes(dtype: str) -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    x = Preprocessing(dtype=dtype).apply(picture)
    assert x.dtype == dtype
    np.testing.assert_array_equal(x[0], picture.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
    ids=["grey", "alpha", "float", "empty"],
)
def test_no_picture_is_refused(bad: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="uint8 array height x width x 3"):
        Preprocessing().view(bad)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", (0, 5)),
        ("resize", "cover"),
        ("crop_ratio", 1.2),
        ("interpolation", "cubic"),
        ("pad", 300),
        ("scale", 0.0),
        ("mean", (1.0, 2.0)),
        ("mean", (float("nan"),)),
        ("std", (1.0, 0.0, 1.0)),
        ("layout", "CHW"),
        ("channel_order", "RGBA"),
        ("dtype", "int8"),
    ],
)
def test_wrong_values_name_the_field(field: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"preprocessing '{field}'"):
        dataclasses.replace(Preprocessing(), **{field: value})


def test_uint8_cannot_be_scaled() -> None:
    with pytest.raises(OptionError, match="uint8"):
        Preprocessing(dtype="uint8", scale=1 / 255)


@pytest.mark.parametrize("name", sorted(cards()))
def test_to_dict_survives_json(name: str) -> None:
    p = load_card(name).preprocessing
    values = {key: value for key, value in json.loads(json.dumps(p.to_dict())).items() if value is not None}
    assert from_mapping(values, "test") == p
