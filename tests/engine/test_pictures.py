"""Reading pictures, against files written by Pillow, which is also the independent reader."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from onnxplain.engine.errors import InputError
from onnxplain.engine.pictures import exif_orientation, read_picture


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def blocks() -> NDArray[np.uint8]:
    """Four differently coloured quarters, unequal in size: survives lossy formats, unlike under all eight turns."""
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:16, :32] = 250, 20, 20
    picture[:16, 32:] = 20, 250, 20
    picture[16:, :32] = 20, 20, 250
    picture[16:, 32:] = 240, 240, 240
    return picture


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_lossless_formats(tmp_path: Path, pixels: NDArray[np.uint8], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    read = read_picture(path)
    np.testing.assert_array_equal(read, pixels)
    assert read.flags.c_contiguous


def test_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(blocks()).save(path, quality=95)
    with Image.open(path) as theirs:
        difference = np.abs(read_picture(path).astype(int) - np.asarray(theirs).astype(int))
    assert difference.max() <= 3  # two builds of libjpeg may choose another inverse DCT and chroma filter


@pytest.mark.parametrize("name", ["picture \u00fc\u4e2d\U0001f600.png", "with space.png"])
def test_any_name(tmp_path: Path, pixels: NDArray[np.uint8], name: str) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    np.testing.assert_array_equal(read_picture(str(tmp_path / name)), pixels)


def test_grey_and_palette(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    grey = Image.fromarray(pixels[..., 0])
    grey.save(tmp_path / "g.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "g.png"), np.repeat(pixels[..., :1], 3, axis=2))
    palette = Image.fromarray(pixels).convert("P")
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(tmp_path: Path, pixels: NDArray[np.uint8], mode: str) -> None:
    picture = Image.fromarray(pixels).convert(mode)
    picture.putalpha(Image.fromarray(pixels[..., 1]))
    path = tmp_path / "a.png"
    picture.save(path)
    paper = Image.new("RGBA", picture.size, "white")
    expected = np.asarray(Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")).astype(int)
    assert np.abs(read_picture(path).astype(int) - expected).max() <= 1  # Pillow blends in 7 spare bits


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 7, dtype=np.uint16)[:9000].reshape(90, 100)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = read_picture(tmp_path / "deep.png")
    np.testing.assert_array_equal(read[..., 0], np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("jpg", "RGB"), ("png", "RGB"), ("png", "RGBA"), ("png", "L"), ("webp", "RGB"), ("tiff", "RGB")],
)
def test_exif_orientation(tmp_path: Path, suffix: str, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(blocks()).convert(mode).save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB")).astype(int)
    read = read_picture(path).astype(int)
    assert read.shape == upright.shape
    # quarters differ by 200 levels and more; lossy coding blurs only the seams between them
    assert np.abs(read - upright).mean() < 3


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_both_byte_orders(order: str) -> None:
    mark = {"<": b"II", ">": b"MM"}[order]
    tiff = mark + struct.pack(f"{order}HIHHHIHH", 42, 8, 1, 0x0112, 3, 1, 6, 0)
    segment = b"Exif\0\0" + tiff
    jpeg = b"\xff\xd8\xff\xe0\x00\x04JF\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xda"
    assert exif_orientation(jpeg) == 6
    assert exif_orientation(jpeg[:30]) == 1  # cut inside the block


def test_webp_chunks_are_padded_to_even_length() -> None:
    tiff = b"II" + struct.pack("<HIHHHIHH", 42, 8, 1, 0x0112, 3, 1, 8, 0)
    chunks = b"VP8 " + struct.pack("<I", 3) + b"abc\0" + b"EXIF" + struct.pack("<I", len(tiff)) + tiff
    assert exif_orientation(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks) == 8


@pytest.mark.parametrize("seed", range(20))
def test_damaged_exif_is_upright_or_read(seed: int) -> None:
    """Whatever the bytes say, a number from 1 to 8 comes back and nothing is raised."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(blocks()).save(buffer, ["JPEG", "PNG", "WEBP"][seed % 3], exif=exif)
    data = bytearray(buffer.getvalue())
    draw = np.random.default_rng(seed)
    for at in draw.integers(2, min(len(data), 120), 12):
        data[at] = draw.integers(0, 256)
    assert exif_orientation(bytes(data)) in range(1, 9)


def test_what_cannot_be_read(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"none\.png' cannot be read: No such file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png' is empty"):
        read_picture(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png' cannot be decoded"):
        read_picture(tmp_path / "text.png")
    cv2.imwrite(str(tmp_path / "float.tiff"), pixels.astype(np.float32))
    with pytest.raises(InputError, match=r"float\.tiff' holds float32 pixels"):
        read_picture(tmp_path / "float.tiff")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp", "ppm", "jp2"])
def test_a_cut_off_file_is_refused_and_not_filled_with_grey(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), blocks())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(InputError, match="cannot be decoded"):
        read_picture(path)
    assert "WARN" not in capfd.readouterr().err  # the decoder's own log stays out of the user's terminal
