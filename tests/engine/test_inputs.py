"""Arrays, folders, labels, and every way in which an array can fail to fit a model's input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest

from onnxplain.engine.errors import InputError
from onnxplain.engine.inputs import (
    gather_inputs,
    labels_from_metadata,
    read_array,
    read_labels,
    validate_feed,
    validate_feeds,
)

IMAGE = ("N", 3, 8, 8)

# ---------------------------------------------------------------------------------------------- arrays


def test_npy_and_npz(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "a.npy", x)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), x)
    np.savez(tmp_path / "b.npz", ids=x.astype(np.int64), mask=x > 2)
    several = read_array(str(tmp_path / "b.npz"))
    assert isinstance(several, dict)
    assert {name: array.dtype.name for name, array in several.items()} == {"ids": "int64", "mask": "bool"}


def test_foreign_byte_order_becomes_native(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(4, dtype=">f4"))
    read = read_array(tmp_path / "a.npy")
    assert isinstance(read, np.ndarray)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, np.arange(4))


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", np.array([{}], dtype=object))
    for name in ("o.npy", "o.npz"):
        with pytest.raises(InputError, match=rf"{name}' cannot be read: it holds Python objects"):
            read_array(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"no array at all", "cannot be read: it is no NumPy file"),
        ("a.npz", b"no zip at all", "cannot be read"),
        ("a.npz", b"PK\x03\x04 cut off", "cannot be read"),
        ("a.npy", b"", "cannot be read"),
        ("b.npz", None, r"b\.npz' cannot be read: No such file or directory; check the path"),
        ("a.txt", b"1 2 3", r"neither \.npy nor \.npz"),
    ],
)
def test_no_array(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_array(tmp_path / name)


def test_truncated_and_structured(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(100))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:300])
    with pytest.raises(InputError, match=r"cut\.npy' cannot be read"):
        read_array(tmp_path / "cut.npy")
    np.save(tmp_path / "r.npy", np.zeros(3, dtype=[("x", "f4")]))
    with pytest.raises(InputError, match="save plain numbers"):
        read_array(tmp_path / "r.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damage_of_any_kind_is_an_input_error(tmp_path: Path, suffix: str) -> None:
    """Random bytes overwritten: the file reads all the same, or is refused; no other exception comes out."""
    path, draw, refused = tmp_path / f"a{suffix}", np.random.default_rng(0), 0
    x = np.arange(60, dtype=np.float32)
    np.save(path, x) if suffix == ".npy" else np.savez_compressed(path, x=x)
    whole = path.read_bytes()
    for _ in range(400):
        data = bytearray(whole)
        for at in draw.integers(0, len(data), 4):
            data[at] = draw.integers(0, 256)
        path.write_bytes(data)
        try:
            read_array(path)
        except InputError:
            refused += 1
    assert refused > 50


# -------------------------------------------------------------------------------------------- gathering


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_come_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "p10.png", "P9.JPG", "p1.png", "x.npy", "notes.txt", ".hidden.png", "sub/p2.png")
    items = gather_inputs(tmp_path)
    assert [(item.name, item.kind) for item in items] == [
        ("p1.png", "picture"),
        ("P9.JPG", "picture"),
        ("p10.png", "picture"),
        ("x.npy", "array"),
    ]
    assert all(item.path.is_file() for item in items)
    deep = gather_inputs([tmp_path], recursive=True)
    assert [item.name for item in deep] == ["p1.png", "P9.JPG", "p10.png", "sub/p2.png", "x.npy"]


def test_names_are_unique(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    paths = [tmp_path / "a" / "1.png", tmp_path / "b", tmp_path / "b" / "1.png"]
    assert [item.name for item in gather_inputs(paths)] == ["a/1.png", "b/1.png", "2.png", "b/1.png#2"]


def test_nothing_to_gather(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    for paths, message in (
        (tmp_path, "no pictures and no arrays"),
        (tmp_path / "gone.png", "does not exist"),
        (tmp_path / "notes.txt", "no known kind"),
        ([], "no input was named"),
    ):
        with pytest.raises(InputError, match=message):
            gather_inputs(paths)


# ----------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "cat\ndog \nbird\n\n"),
        ("l.txt", "\ufeffcat\r\ndog\r\nbird"),
        ("l.json", '["cat", "dog", "bird"]'),
        ("l.json", '{"2": "bird", "0": "cat", "1": "dog"}'),
        ("l.json", '{"0": ["n01", "cat"], "1": ["n02", "dog"], "2": ["n03", "bird"]}'),
    ],
)
def test_labels(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", b"\n\n", "no names"),
        ("l.txt", b"", "is empty"),
        ("l.txt", b"\xff\xfe\xff", "UTF-8"),
        ("l.json", b"{", "not valid JSON"),
        ("l.json", b"3", "neither a list"),
        ("l.json", b"[]", "neither a list"),
        ("l.json", b'{"1": "a"}', "none for index 0"),
        ("l.json", b'["a", 3]', "holds 3 at index 1"),
    ],
)
def test_bad_labels(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / name)


def test_labels_in_the_model() -> None:
    assert labels_from_metadata({}) is None
    assert labels_from_metadata({"onnxplain.labels": json.dumps(["a", "b"])}) == ["a", "b"]
    with pytest.raises(InputError, match=r"model metadata 'onnxplain\.labels'"):
        labels_from_metadata({"onnxplain.labels": "a, b"})


# ------------------------------------------------------------------------------------------------ feeds


def test_a_fitting_array_passes_unchanged() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    assert validate_feed("x", x, np.float32, IMAGE) is x
    turned = validate_feed("x", x.transpose(0, 1, 3, 2), np.float32, IMAGE)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, x.transpose(0, 1, 3, 2))
    assert validate_feed("x", x, np.float32, None) is x


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array([0.1, -3.0]), np.float32),
        (np.array([0.1, -3.0], np.float32), np.float64),
        (np.array([0.5, -3.0], np.float32), np.float16),
        (np.array([0.5, -3.0], np.float32), ml_dtypes.bfloat16),
        (np.array([0.5, 3.0], ml_dtypes.bfloat16), np.float32),
        (np.array([0, 255], np.uint8), np.float32),
        (np.array([True, False]), np.float32),
        (np.array([2**24, -(2**24)]), np.float32),
        (np.array([3.0, -1.0]), np.int64),
        (np.array([3.0, -1.0], ml_dtypes.bfloat16), np.int32),
        (np.array([0, 1]), np.bool_),
        (np.array([127, -128]), np.int8),
        ([[1, 2], [3, 4]], np.int64),
        (np.arange(3, dtype=">f4"), np.float32),
    ],
)
def test_casts_that_keep_the_values(value: Any, dtype: Any) -> None:
    got = validate_feed("x", value, dtype, None)
    assert got.dtype == np.dtype(dtype)
    expected = np.asarray(value).astype(dtype)
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.array([1e39]), np.float32, "too large for the model's float32"),
        (np.array([70000.0], np.float32), np.float16, "too large"),
        (np.array([2**24 + 1]), np.float32, "cannot represent exactly"),
        (np.array([2**63 - 1]), np.float32, "cannot represent exactly"),
        (np.array([0.5]), np.int64, "with fractions"),
        (np.array([-1]), np.uint8, "takes 0 to 255"),
        (np.array([1e30]), np.int64, "takes -9223372036854775808"),
        (np.array([2]), np.bool_, "takes 0 to 1"),
        (np.array([1 + 2j]), np.float32, "complex128 but the model takes float32"),
        (np.array(["a"]), np.float32, "holds text but the model takes float32"),
        (np.array([1.0]), np.str_, "but the model takes text"),
        (np.array([np.nan]), np.float32, "NaN or infinite"),
        (np.array([np.inf], ml_dtypes.bfloat16), np.float32, "NaN or infinite"),
        (np.array([-np.inf]), np.int64, "NaN or infinite"),
        (np.array([None]), np.float32, "Python objects"),
        ([[1, 2], [3]], np.float32, "ragged"),
    ],
)
def test_casts_that_would_change_values_are_refused(value: Any, dtype: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^input 'x' .*{message}"):
        validate_feed("x", value, dtype, None)


def test_text_passes() -> None:
    for text in (np.array(["a", "b"]), np.array(["a", "b"], dtype=object)):
        assert validate_feed("x", text, object, ("N",)).tolist() == ["a", "b"]


def test_the_first_bad_value_is_named() -> None:
    x = np.zeros((2, 3, 8, 8), np.float32)
    x[1, 2, 0, 5] = np.nan
    x[1, 2, 7, 7] = np.inf
    with pytest.raises(InputError, match=r"2 value\(s\) .* at index \(1, 2, 0, 5\)"):
        validate_feed("x", x, np.float32, IMAGE)


@pytest.mark.parametrize(
    ("shape", "declared", "message"),
    [
        ((3, 8, 8), IMAGE, r"rank 3 \(\[3, 8, 8\]\) but the model takes 4 .*add the batch axis"),
        ((2, 8, 8, 3), IMAGE, r"shape \[2, 8, 8, 3\] .*transpose\(0, 3, 1, 2\), so the model takes NCHW"),
        ((2, 3, 8, 8), (None, 8, 8, 3), r"transpose\(0, 2, 3, 1\), so the model takes NHWC"),
        ((4, 3, 8, 8), (1, 3, 8, 8), "batch is fixed: give 1 samples at a time"),
        ((2, 3, 9, 8), IMAGE, r"model takes \[N, 3, 8, 8\]; reshape or preprocess"),
        ((5,), ("N", None), r"takes 2 \(\[N, \?\]\)"),
        ((0, 3, 8, 8), IMAGE, "empty batch"),
        ((2,), (), "rank 1"),
    ],
)
def test_wrong_shapes(shape: tuple[int, ...], declared: tuple[int | str | None, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate_feed("x", np.zeros(shape, np.float32), np.float32, declared)


def test_a_cache_of_length_zero_is_no_empty_batch() -> None:
    past = validate_feed("past", np.zeros((1, 4, 0, 8)), np.float32, ("N", 4, "past", 8))
    assert past.shape == (1, 4, 0, 8)
    assert validate_feed("ids", np.zeros((1, 0)), np.int64, ("N", "length")).dtype == np.int64


def test_the_runtime_s_own_values_are_arrays() -> None:
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(x)
    np.testing.assert_array_equal(validate_feed("x", value, np.float32, ("N", 3)), x)


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_tensors_that_give_no_array_are_refused(error: type[Exception]) -> None:
    """As torch does for tensors on a GPU, and for those that require a gradient."""

    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise error("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu()")

    with pytest.raises(InputError, match=r"'x', a Tensor, cannot be read .*cuda:0 .*; give a NumPy array, .*\.cpu\(\)"):
        validate_feed("x", Tensor(), np.float32, ("N",))


def test_scalars_stay_scalars() -> None:
    assert validate_feed("t", 3, np.float32, ()).shape == ()


def test_feeds_by_name() -> None:
    declared = {"input_ids": (np.int64, ("N", None)), "mask": (np.bool_, ("N", None))}
    feeds = {"mask": [[1, 0]], "input_ids": [[5, 6]]}
    checked = validate_feeds(feeds, declared)
    assert {name: array.dtype.name for name, array in checked.items()} == {"input_ids": "int64", "mask": "bool"}
    with pytest.raises(InputError, match="no input 'inputs_ids'; did you mean input_ids"):
        validate_feeds({**feeds, "inputs_ids": 1}, declared)
    with pytest.raises(InputError, match="input 'mask' was not given; the model needs input_ids, mask"):
        validate_feeds({"input_ids": [[1]]}, declared)
