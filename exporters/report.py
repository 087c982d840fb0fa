"""What an export did, as data: the report that :func:`onnxplain.exporters.export` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of the written graph; a text in ``shape`` names an axis of open length."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Folded:
    """An operator of which the exporter left fewer nodes than the network has."""

    operator: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.operator}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well it agrees with the framework.

    Attributes:
        path: The ONNX file.
        exporter: The framework and its version.
        opset: Opset of the default domain, as the file states it.
        ir_version: IR version of the file.
        inputs: Graph inputs in order.
        outputs: Graph outputs in order.
        operators: Number of nodes by operator, Constant nodes left out.
        folded: Layers that the exporter merged into others (empty where every layer kept its node).
        max_difference: Largest difference between file and framework by output, over all checked
            batches, relative to the largest magnitude of that output.
        tolerance: Bound that each output was held to.
        batch_sizes: Batch sizes at which the two were compared.
        runtime: What ran the file for the comparison.
        notes: What the user should know besides.
        files: SHA-256 by file name, the ONNX file first; further ones are its external data.
    """

    path: Path
    exporter: str
    opset: int
    ir_version: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: dict[str, int]
    folded: tuple[Folded, ...]
    max_difference: dict[str, float]
    tolerance: dict[str, float]
    batch_sizes: tuple[int, ...]
    runtime: str
    notes: tuple[str, ...]
    files: dict[str, str]

    @property
    def sha256(self) -> str:
        """SHA-256 of the ONNX file."""
        return self.files[self.path.name]

    def to_dict(self) -> dict[str, Any]:
        """The report as values that JSON can carry."""
        return {
            "path": str(self.path),
            "exporter": self.exporter,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "inputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in self.inputs],
            "outputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in self.outputs],
            "operators": dict(self.operators),
            "folded": [{"operator": f.operator, "before": f.before, "after": f.after} for f in self.folded],
            "max_difference": dict(self.max_difference),
            "tolerance": dict(self.tolerance),
            "batch_sizes": list(self.batch_sizes),
            "runtime": self.runtime,
            "notes": list(self.notes),
            "sha256": self.sha256,
            "files": dict(self.files),
        }
