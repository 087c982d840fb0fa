"""Where results go: checked before the work starts, written whole or not at all.

``.png`` is one figure or page, ``.npz`` and ``.safetensors`` are the raw results (one file per method), ``.json`` the
figures without arrays, and anything without a suffix is a folder with one figure per sample and ``results.json``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxplain.engine.errors import OutputError

if TYPE_CHECKING:
    from onnxplain.cli.results import Results
    from onnxplain.cli.samples import Samples

FORMS = (".png", ".npz", ".json", ".safetensors")


@dataclass(frozen=True)
class Destination:
    """A file or folder to write, and its form: a suffix of :data:`FORMS`, or ``folder``."""

    path: Path
    form: str


def check_file(path: Path) -> Path:
    """Refuse a file that could not be written later.

    Raises:
        OutputError: Its folder is missing or not writable, or the path is a folder.
    """
    if path.is_dir():
        raise OutputError(f"cannot write '{path}': it is a folder; give a file name in it")
    _check_folder(path)
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"cannot write '{path}': the file is read-only; choose another name")
    return path


def check_not_input(paths: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read.

    Raises:
        OutputError: One of ``paths`` is one of ``inputs``.
    """
    read = {path.resolve() for path in inputs if not path.is_dir()}
    for path in paths:
        if path.resolve() in read:
            raise OutputError(f"cannot write '{path}': it is what is read; give another name")


def _check_folder(path: Path) -> None:
    parent = path.parent
    if not parent.is_dir():
        raise OutputError(f"cannot write '{path}': there is no folder '{parent}'; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write '{path}': the folder '{parent}' is not writable; choose another place")


def check_folder(path: Path) -> Path:
    """Refuse a folder that could not be made or filled later.

    Raises:
        OutputError: What it would lie in is missing or not writable, or a file is in the way.
    """
    _check_folder(path / "x" if path.is_dir() else path)
    if path.exists() and not path.is_dir():
        raise OutputError(f"cannot write '{path}': a file of that name is in the way; give another folder")
    return path


def destinations(paths: Sequence[Path]) -> list[Destination]:
    """What ``-o`` names.

    Raises:
        OutputError: A suffix that is no form, or a place that cannot be written.
    """
    found = []
    for path in paths:
        suffix = path.suffix.lower()
        if path.is_dir() or not suffix:
            found.append(Destination(check_folder(path), "folder"))
            continue
        if suffix not in FORMS:
            raise OutputError(f"cannot write '{path}': '{suffix}' is no known form; use {', '.join(FORMS)} or a folder")
        if suffix == ".safetensors":
            _needs_safetensors(path)
        found.append(Destination(check_file(path), suffix))
    return found


def _needs_safetensors(path: Path) -> None:
    from importlib.util import find_spec

    if find_spec("safetensors") is None:
        raise OutputError(f"cannot write '{path}': the package safetensors is missing; install it, or use .npz")


def check_possible(wanted: Sequence[Destination], kind: str, maps: int, batches: int) -> None:
    """Refuse, before the work, what the kind or number of samples rules out.

    Raises:
        OutputError: A figure of what is no picture, too many maps for a page, or raw results of unequal shapes.
    """
    from onnxplain.cli.figures import DRAWN, MOST_MAPS

    for one in wanted:
        if one.form == ".png" and kind not in DRAWN:
            raise OutputError(
                f"cannot write '{one.path}': the inputs are no picture, series, table or text; use .npz or .json"
            )
        if one.form == ".png" and maps > MOST_MAPS:
            raise OutputError(f"cannot write '{one.path}': {maps} maps do not fit on one page; give a folder")
        if one.form in (".npz", ".safetensors") and batches > 1:
            raise OutputError(f"cannot write '{one.path}': the samples differ in shape; give --size, or a folder")


def write(wanted: Sequence[Destination], results: Results, samples: Samples, axes: Sequence[str | None]) -> list[Path]:
    """Write everything; returns what was written.

    Raises:
        OutputError: The disk refuses.
    """
    from onnxplain.cli.figures import page
    from onnxplain.engine.render.png import write_bytes

    written = []
    for one in wanted:
        if one.form == "folder":
            written += _write_folder(one.path, results, samples, axes)
        elif one.form == ".png":
            written.append(write_bytes(one.path, page(results, samples, range(len(results.samples)), axes)))
        elif one.form == ".json":
            written.append(write_bytes(one.path, _json(results)))
        else:
            for column in results.columns:
                several = len(results.columns) > 1
                path = one.path.with_name(f"{one.path.stem}.{column.stem}{one.path.suffix}") if several else one.path
                written.append(column.parts[0].save(path))
    return written


def _json(results: Results) -> bytes:
    from onnxplain.cli.console import json_text
    from onnxplain.cli.results import document

    return (json_text(document(results, timing=False)) + "\n").encode()


def _write_folder(folder: Path, results: Results, samples: Samples, axes: Sequence[str | None]) -> list[Path]:
    from onnxplain.cli.figures import DRAWN, page
    from onnxplain.engine.render.png import write_bytes

    figures = []
    used = {"results.json"}
    if results.kind in DRAWN:
        for place, sample in enumerate(results.samples):
            figures.append((file_name(sample.name, used), page(results, samples, [place], axes)))
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{folder}': {error.strerror}; choose another place") from None
    written = [write_bytes(folder / name, png) for name, png in figures]
    return [*written, write_bytes(folder / "results.json", _json(results))]


def file_name(sample: str, used: set[str]) -> str:
    """A file name for a sample's figure that no other has; ``used`` remembers them."""
    stem = re.sub(r"[^\w.-]+", "-", re.sub(r"\.\w+(?=$|\[)", "", sample)).strip("-.") or "sample"
    name, count = f"{stem}.png", 2
    while name in used:
        name, count = f"{stem}-{count}.png", count + 1
    used.add(name)
    return name
