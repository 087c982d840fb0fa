"""PNG files: encoding, text metadata, and writing that leaves either the whole file or none.

The encoder is our own (ISO/IEC 15948, 8-bit grey or RGB), because the bytes must depend on pixels and metadata alone:
no time stamp, no software version. Guarantees: same arguments, same bytes (for one zlib); a write that fails leaves
what stood there before and no temporary file; every failure to write is an :class:`OutputError`.
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxplain.engine.errors import InputError, OptionError, OutputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_ROWS_AT_ONCE = 64


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _text_chunk(keyword: str, value: str) -> bytes:
    """tEXt for plain ASCII, which every reader knows, else iTXt in UTF-8."""
    if not keyword.isascii() or not keyword.isprintable() or not 1 <= len(keyword) <= 79 or keyword != keyword.strip():
        raise OptionError(f"PNG metadata key {keyword!r} is not allowed; use 1 to 79 ASCII characters, no outer blanks")
    if "\0" in value:
        raise OptionError(f"PNG metadata '{keyword}' holds a NUL character, which PNG text cannot; remove it")
    if value.isascii():
        return _chunk(b"tEXt", keyword.encode("ascii") + b"\0" + value.encode("ascii"))
    return _chunk(b"iTXt", keyword.encode("ascii") + b"\0\0\0\0\0" + value.encode("utf-8"))


def _filtered(rows: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], step: int) -> bytes:
    """Rows with the filter of smallest absolute sum each (PNG specification, 12.7), its number in front."""
    up = np.concatenate([above[np.newaxis], rows[:-1]])
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:], corner[:, step:] = rows[:, :-step], up[:, :-step]
    a, b, c = (part.astype(np.int16) for part in (left, up, corner))
    near_a, near_b, near_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((near_a <= near_b) & (near_a <= near_c), left, np.where(near_b <= near_c, up, corner))
    kinds = np.array([0, 1, 2, 4], np.uint8)
    tried = np.stack([rows, rows - left, rows - up, rows - paeth])
    best = np.abs(tried.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64).argmin(axis=0)
    chosen = tried[best, np.arange(len(rows))]
    return np.concatenate([kinds[best][:, np.newaxis], chosen], axis=1).tobytes()


def encode(image: npt.NDArray[np.uint8], metadata: Mapping[str, str] | None = None) -> bytes:
    """PNG bytes of a picture.

    Args:
        image: uint8 ``(H, W)`` grey or ``(H, W, 3)`` RGB.
        metadata: Text to embed; keys are 1 to 79 printable ASCII characters, values any text without NUL. Written in
            the order of the keys.

    Raises:
        InputError: Another dtype or shape.
        OptionError: A key or value that PNG cannot hold.
    """
    array = np.asarray(image)
    grey = array.ndim == 2
    if array.dtype != np.uint8 or array.size == 0 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
        raise InputError(
            f"cannot write an array of dtype {array.dtype} and shape {array.shape} as PNG; "
            "pass uint8 of shape (H, W) or (H, W, 3)"
        )
    height, width = array.shape[:2]
    step = 1 if grey else 3
    rows = array.reshape(height, width * step)
    packer, packed = zlib.compressobj(6), []
    above = np.zeros(width * step, np.uint8)
    for start in range(0, height, _ROWS_AT_ONCE):
        band = rows[start : start + _ROWS_AT_ONCE]
        packed.append(packer.compress(_filtered(band, above, step)))
        above = band[-1]
    packed.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if grey else 2, 0, 0, 0)
    parts = [SIGNATURE, _chunk(b"IHDR", header), _chunk(b"sRGB", b"\0")]
    parts += [_text_chunk(key, (metadata or {})[key]) for key in sorted(metadata or {})]
    return b"".join([*parts, _chunk(b"IDAT", b"".join(packed)), _chunk(b"IEND", b"")])


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, data and raw bytes of every chunk."""
    at = len(SIGNATURE)
    while png[: len(SIGNATURE)] == SIGNATURE and at + 12 <= len(png):
        (size,) = struct.unpack_from(">I", png, at)
        raw = png[at : at + 12 + size]
        kind, data = raw[4:8], raw[8 : 8 + size]
        if len(raw) != 12 + size or struct.unpack(">I", raw[-4:])[0] != zlib.crc32(kind + data):
            break
        yield kind, data, raw
        if kind == b"IEND":
            return
        at += len(raw)
    raise InputError("these bytes are no complete PNG file; pass what a renderer returned or a PNG file's content")


def _read_chunk(kind: bytes, data: bytes) -> tuple[str, str]:
    keyword, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return keyword.decode("latin-1"), rest.decode("latin-1")
    if kind == b"zTXt":
        return keyword.decode("latin-1"), zlib.decompress(rest[1:]).decode("latin-1")
    compressed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)[2]
    return keyword.decode("latin-1"), (zlib.decompress(text) if compressed else text).decode("utf-8")


def read_text(png: bytes) -> dict[str, str]:
    """The text metadata of a PNG file's bytes.

    Raises:
        InputError: Not a PNG file, or a damaged one.
    """
    try:
        return dict(_read_chunk(kind, data) for kind, data, _ in _chunks(png) if kind in _TEXT_CHUNKS)
    except (IndexError, UnicodeDecodeError, zlib.error) as error:
        raise InputError("the PNG's text metadata is damaged; write the file again") from error


def with_text(png: bytes, metadata: Mapping[str, str]) -> bytes:
    """PNG bytes with text added; a key that is there already is replaced.

    Raises:
        InputError: Not a PNG file.
        OptionError: A key or value that PNG cannot hold.
    """
    parts = [SIGNATURE]
    for kind, data, raw in _chunks(png):
        if kind in _TEXT_CHUNKS and data.partition(b"\0")[0].decode("latin-1") in metadata:
            continue
        parts.append(raw)
        if kind == b"IHDR":
            parts += [_text_chunk(key, metadata[key]) for key in sorted(metadata)]
    return b"".join(parts)


def write_png(
    path: str | os.PathLike[str], image: bytes | npt.NDArray[np.uint8], *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a picture, whole or not at all.

    Args:
        path: Where to; its folder must exist. An existing file is replaced.
        image: PNG bytes, as renderers return them, or a uint8 array as :func:`encode` takes it.
        metadata: Text to embed.

    Returns:
        The path written.

    Raises:
        OutputError: The folder is missing, is no folder, or cannot be written; or the path is a folder.
        InputError: Neither PNG bytes nor a uint8 picture.
        OptionError: A metadata key or value that PNG cannot hold.
    """
    png = with_text(image, metadata or {}) if isinstance(image, bytes) else encode(image, metadata)
    return write_bytes(path, png)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write bytes to a file, whole or not at all: a temporary file beside it, then one rename.

    A link is followed; a device or pipe (``/dev/stdout``) is written to directly.

    Raises:
        OutputError: As for :func:`write_png`.
    """
    asked = Path(path)
    try:
        target = Path(os.path.realpath(asked))
        if target.is_dir():
            raise OutputError(f"cannot write '{asked}': it is a folder; pass a file name inside it")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write '{asked}': there is no folder '{asked.parent}'; create it first")
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OutputError(
            f"cannot write '{asked}': {reason}; choose another place or change its permissions"
        ) from error
    return asked


def _replace(target: Path, data: bytes) -> None:
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(None, "the file is read-only")
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        # "x": a file of that name, or a link planted there, is never overwritten.
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(target)  # os.replace: atomic within a folder
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
