"""Writes and reads results; a file is complete or not there.

``.npz`` and ``.safetensors`` hold the whole result (arrays, and everything else as one JSON document),
``.json`` the figures without the arrays, ``.png`` the map.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import InputError, OnnxplainError, OutputError
from onnxplain.engine.explanation import Array, Explanation, Residual, TermInfo, Terms, jsonable
from onnxplain.engine.graph.model import to_proto
from onnxplain.engine.render.png import write_bytes

#: Version of the stored form; a newer one is refused, not guessed at.
FORMAT = 1

_PLAIN = (
    *("head", "head_note", "output", "method", "options", "seed", "quantisation", "blocked", "notes", "signed"),
    *("provenance", "target_shape", "target_words"),
)


def write_model(model: ir.Model, path: Path) -> Path:
    """Write a model as one file.

    Raises:
        OutputError: It cannot be written, or is above the 2 GB that one file can hold.
    """
    try:
        data = to_proto(model).SerializeToString()
    except ValueError as e:
        raise OutputError(f"cannot write {path}: the model is above 2 GB, the limit of one file") from e
    return write_bytes(path, data)


def save_explanation(explanation: Explanation, path: Path) -> Path:
    """See :meth:`Explanation.save`."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return write_bytes(path, _npz(*_split(explanation)))
    if suffix == ".json":
        document = {**_split(explanation)[1], "samples": [explanation.summary(i) for i in range(len(explanation))]}
        return write_bytes(path, (json.dumps(_standard(document), indent=2, allow_nan=False) + "\n").encode())
    if suffix == ".safetensors":
        arrays, meta = _split(explanation)
        return write_bytes(path, _safetensors().save(arrays, metadata={"onnxplain": json.dumps(meta)}))
    if suffix == ".png":
        from onnxplain.engine.render.picture import map_png

        return write_bytes(path, map_png(explanation))
    raise OutputError(f"cannot write {path}: '{suffix}' is no known form; use .npz, .safetensors, .json or .png")


def _standard(value: Any) -> Any:
    """Plain data without NaN and infinities, which are no JSON: null instead."""
    if isinstance(value, dict):
        return {k: _standard(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_standard(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise OutputError(
            "the .safetensors form needs the package safetensors: pip install safetensors, or use .npz"
        ) from None
    return safetensors.numpy


def _npz(arrays: dict[str, Array], meta: dict[str, Any]) -> bytes:
    """Like ``numpy.savez_compressed``, with fixed time stamps: the same result gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {**arrays, "meta": np.array(json.dumps(meta))}.items():
            inner = io.BytesIO()
            np.save(inner, array, allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), inner.getvalue(), zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()


def _split(e: Explanation) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays, and everything else as plain data."""
    arrays: dict[str, Array] = {"score": e.score}
    arrays |= {f"attribution/{n}": a for n, a in e.attributions.items()}
    arrays |= {f"output/{n}": a for n, a in e.outputs.items()}
    arrays |= {f"standard_error/{n}": a for n, a in e.standard_errors.items()}
    for name in ("saliency", "target", "baseline_score"):
        value = getattr(e, name)
        if value is not None:
            arrays[name] = value
    meta: dict[str, Any] = {"format": FORMAT, **{k: jsonable(getattr(e, k)) for k in _PLAIN}}
    if e.residual is not None:
        arrays |= {"residual/absolute": e.residual.absolute, "residual/relative": e.residual.relative}
        meta["residual"] = {"of": e.residual.of, "tolerance": e.residual.tolerance}
    if e.terms is not None:
        arrays |= {"terms/input": e.terms.input, "terms/biases": e.terms.biases}
        arrays |= {f"terms/map/{i}": a for i, a in e.terms.maps.items()}
        arrays |= {"terms/unplaced": e.terms.unplaced} if e.terms.unplaced is not None else {}
        meta["terms"] = [asdict(i) for i in e.terms.info]
    return {k: np.asarray(v, order="C") for k, v in arrays.items()}, meta


def load_explanation(path: Path) -> Explanation:
    """See :meth:`Explanation.load`."""
    try:
        if path.suffix.lower() == ".safetensors":
            arrays, meta = _read_safetensors(path)
        else:
            # From memory: numpy leaves a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {k: file[k] for k in file.files if k != "meta"}
                meta = json.loads(str(file["meta"]))
        if meta["format"] > FORMAT:
            raise InputError(f"{path} was written by a newer version (format {meta['format']}); upgrade onnxplain")
        return _join(arrays, meta)
    except OnnxplainError:
        raise
    except Exception as e:  # what a damaged file raises is numpy's, zipfile's, json's or safetensors' own matter
        raise InputError(f"{path} is no stored explanation ({e}); give a file written by Explanation.save") from None


def _read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return _safetensors().load(data), json.loads(header["__metadata__"]["onnxplain"])


def _join(arrays: dict[str, Array], meta: dict[str, Any]) -> Explanation:
    def named(prefix: str) -> dict[str, Array]:
        return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}

    residual = terms = None
    if "residual" in meta:
        residual = Residual(arrays["residual/absolute"], arrays["residual/relative"], **meta["residual"])
    if "terms" in meta:
        info = tuple(TermInfo(**i) for i in meta["terms"])
        maps = {int(k): v for k, v in named("terms/map/").items()}
        terms = Terms(arrays["terms/input"], arrays["terms/biases"], info, maps, arrays.get("terms/unplaced"))
    plain = {k: meta[k] for k in _PLAIN if k in meta}
    for key in ("blocked", "notes", "target_shape"):
        plain[key] = tuple(plain[key])
    return Explanation(
        attributions=named("attribution/"),
        outputs=named("output/"),
        standard_errors=named("standard_error/"),
        saliency=arrays.get("saliency"),
        score=arrays["score"],
        target=arrays.get("target"),
        baseline_score=arrays.get("baseline_score"),
        residual=residual,
        terms=terms,
        **plain,
    )
