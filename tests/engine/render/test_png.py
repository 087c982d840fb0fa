"""PNG bytes against Pillow's reader, and writing that never leaves half a file."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain.engine.errors import InputError, OptionError, OutputError
from onnxplain.engine.render import png

RNG = np.random.default_rng(0)
RAMP = (np.add.outer(np.arange(150), np.arange(70)) % 256).astype(np.uint8)


def read(data: bytes) -> tuple[np.ndarray, dict[str, str]]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image), {key: str(value) for key, value in image.text.items()}


@pytest.mark.parametrize(
    "image",
    [
        RNG.integers(0, 256, (1, 1, 3), np.uint8),
        RNG.integers(0, 256, (130, 33, 3), np.uint8),
        RNG.integers(0, 256, (65, 7), np.uint8),
        RAMP,
        np.repeat(RAMP[:, :, None], 3, axis=2)[::2, ::-1],
        np.zeros((200, 300, 3), np.uint8),
    ],
    ids=["pixel", "noise", "grey-noise", "ramp", "strided", "black"],
)
def test_another_reader_sees_the_same_pixels(image: np.ndarray) -> None:
    pixels, text = read(png.encode(image))
    np.testing.assert_array_equal(pixels, image)
    assert text == {}


def test_smooth_pictures_compress() -> None:
    assert len(png.encode(RAMP)) < RAMP.size / 20


def test_metadata_is_read_by_others_and_by_us() -> None:
    metadata = {"method": "fullgrad", "class": "façade 日本 ≥", "note": "two\nlines", "empty": ""}
    data = png.encode(RAMP, metadata)
    assert read(data)[1] == metadata
    assert png.read_text(data) == metadata


def test_same_arguments_same_bytes_whatever_the_order_of_keys() -> None:
    one, two = png.encode(RAMP, {"a": "1", "b": "2"}), png.encode(RAMP.copy(), {"b": "2", "a": "1"})
    assert one == two


def test_text_of_other_writers_is_read_and_replaced() -> None:
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("plain", "old")
    info.add_text("packed", "x" * 500, zip=True)
    info.add_itxt("wide", "日本", zip=True)
    Image.fromarray(RAMP).save(buffer, "PNG", pnginfo=info)
    assert png.read_text(buffer.getvalue()) == {"plain": "old", "packed": "x" * 500, "wide": "日本"}
    changed = png.with_text(buffer.getvalue(), {"plain": "new"})
    assert read(changed)[1] == {"plain": "new", "packed": "x" * 500, "wide": "日本"}
    np.testing.assert_array_equal(read(changed)[0], RAMP)


@pytest.mark.parametrize("key", ["", "x" * 80, " lead", "ü", "a\nb"])
def test_keys_that_png_cannot_hold(key: str) -> None:
    with pytest.raises(OptionError, match="not allowed"):
        png.encode(RAMP, {key: "value"})


def test_bad_arguments() -> None:
    with pytest.raises(OptionError, match="NUL"):
        png.encode(RAMP, {"key": "a\0b"})
    for bad in (RAMP.astype(np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(InputError, match="pass uint8"):
            png.encode(bad)
    good = png.encode(RAMP)
    for broken in (b"", b"GIF89a", good[:-20], good[:60] + b"?" + good[61:]):
        with pytest.raises(InputError, match="no complete PNG"):
            png.with_text(broken, {})


def test_writing_and_replacing(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    assert png.write_png(path, RAMP, metadata={"k": "v"}) == path
    np.testing.assert_array_equal(read(path.read_bytes())[0], RAMP)
    path.chmod(0o640)
    png.write_png(str(path), png.encode(RAMP.T), metadata={"k": "w"})
    pixels, text = read(path.read_bytes())
    np.testing.assert_array_equal(pixels, RAMP.T)
    assert text == {"k": "w"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.png"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    png.write_bytes(tmp_path / "ours", b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    png.write_bytes(tmp_path / "link.png", b"new")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes() == b"new"


def test_a_device_is_written_to_not_replaced() -> None:
    before = Path("/dev/null").stat().st_ino
    png.write_bytes("/dev/null", b"x")
    assert Path("/dev/null").stat().st_ino == before


@pytest.mark.parametrize("where", ["missing/map.png", "file/map.png", "folder", "x" * 300, "a\0b"])
def test_places_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"keep")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        png.write_png(tmp_path / where, RAMP)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"keep"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_half_way_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full) if step == "fsync" else monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        png.write_png(path, RAMP)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.png"]


def test_a_read_only_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(b"old")
    # Patched, because tests may run as root, for whom nothing is read-only.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="read-only"):
        png.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
