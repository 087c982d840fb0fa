"""Reads a picture file into 8-bit RGB, upright, so that everything after it knows one form only.

What a viewer shows is what comes out: EXIF orientation is applied, transparency is laid on white, grey becomes
RGB, 16 bits become 8. Guarantee: a file that cannot be shown that way is refused with its path and the reason.
Orientation is read here, not left to the decoder: OpenCV applies it only in modes that drop transparency and depth.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxplain.engine.errors import InputError
from onnxplain.engine.resize import Picture

PICTURE_SUFFIXES = (".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_ORIENTATION_TAG = 0x0112


def _jpeg_blocks(data: bytes) -> Iterator[bytes]:
    """EXIF blocks of a JPEG: APP1 segments in front of the scan (ITU T.81 annex B; Exif 2.32, 4.5.4)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            yield data[at + 10 : at + 2 + length]
        at += 2 + length


def _png_blocks(data: bytes) -> Iterator[bytes]:
    """EXIF blocks of a PNG: chunks of type eXIf (PNG 3rd edition, 11.3.4.5)."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"eXIf":
            yield data[at + 8 : at + 8 + length]
        at += 12 + length


def _webp_blocks(data: bytes) -> Iterator[bytes]:
    """EXIF blocks of a WebP: RIFF chunks named EXIF, padded to even length."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            yield data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
        at += 8 + length + length % 2


def exif_orientation(data: bytes) -> int:
    """EXIF orientation, 1 to 8, of a JPEG, PNG or WebP file; 1 (upright) where none or an impossible one is noted."""
    if data[:2] == b"\xff\xd8":
        blocks = _jpeg_blocks(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        blocks = _png_blocks(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        blocks = _webp_blocks(data)
    else:
        return 1
    for block in blocks:
        order = {b"II": "<", b"MM": ">"}.get(block[:2])
        if order is None:
            continue
        try:
            (start,) = struct.unpack_from(f"{order}I", block, 4)
            (count,) = struct.unpack_from(f"{order}H", block, start)
            for entry in range(count):
                tag, _, _, value = struct.unpack_from(f"{order}HHIH", block, start + 2 + 12 * entry)
                if tag == _ORIENTATION_TAG and 1 <= value <= 8:
                    return int(value)
        except struct.error:  # truncated block: the pixels may be fine all the same
            continue
    return 1


def _upright(picture: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation: 5 to 8 exchange the axes first, then rows or columns are mirrored."""
    turned = picture.swapaxes(0, 1) if orientation >= 5 else picture
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return turned


def _to_rgb(decoded: NDArray[np.uint8]) -> Picture:
    """Grey, BGR or BGRA to RGB; transparency lies on white, as on paper."""
    if decoded.ndim == 2:
        return np.repeat(decoded[:, :, None], 3, axis=2)
    if decoded.shape[2] < 3:  # grey, grey with alpha
        decoded = np.concatenate([decoded[:, :, :1]] * 3 + [decoded[:, :, 1:]], axis=2)
    rgb = decoded[:, :, 2::-1]
    if decoded.shape[2] == 3:
        return rgb
    alpha = decoded[:, :, 3:].astype(np.uint32)
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def read_bytes(path: Path, what: str) -> bytes:
    """The file's bytes; every reason why not becomes an :class:`InputError` naming the path."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} '{path}' cannot be read: {error.strerror or error}; check the path") from None
    if not data:
        raise InputError(f"{what} '{path}' is empty (0 bytes); write or copy it again")
    return data


def read_picture(path: str | Path) -> Picture:
    """Read a picture file as 8-bit RGB.

    Args:
        path: JPEG, PNG, BMP, WebP, TIFF, JPEG 2000 or PNM file; any characters may stand in the name.

    Returns:
        uint8, height x width x 3, RGB, upright, contiguous. 16-bit values are divided by 257 and rounded.

    Raises:
        InputError: The file is missing, empty, no picture, truncated beyond use, or holds floating point pixels.
    """
    import cv2

    path = Path(path)
    data = read_bytes(path, "picture")
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # a damaged file is reported once, below
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(
            f"picture '{path}' cannot be decoded: {error.err or error}; convert it to PNG or JPEG"
        ) from None
    finally:
        logging.setLogLevel(level)
    if decoded is None or not decoded.size:  # the stubs do not know that None comes back
        raise InputError(
            f"picture '{path}' cannot be decoded: damaged, or no known picture format; convert it to PNG or JPEG"
        )
    if decoded.dtype == np.uint16:
        decoded = ((decoded.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if decoded.dtype != np.uint8:
        raise InputError(
            f"picture '{path}' holds {decoded.dtype} pixels, whose range nobody can know; "
            "convert it to 8 or 16 bits, or pass the network's input as .npy"
        )
    pixels = np.asarray(decoded, dtype=np.uint8)
    return np.ascontiguousarray(_upright(_to_rgb(pixels), exif_orientation(data)))
