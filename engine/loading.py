"""A loaded model: read once, canonicalised once, explained many times."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.graph.canonical import canonicalise
from onnxplain.engine.graph.embeddings import conversions, lookups
from onnxplain.engine.graph.model import ModelSource, SourceModel, read_model
from onnxplain.engine.graph.names import describe, label
from onnxplain.engine.graph.passes.fold_batch_normalization import FoldBatchNormalizationPass
from onnxplain.engine.graph.shapes import Dims, constant, dims, is_float
from onnxplain.engine.session.custom_ops import CustomOps
from onnxplain.engine.session.providers import ProviderSpec


@dataclass(frozen=True)
class TensorInfo:
    """A model input or output: name, type name and sizes (symbols for dynamic ones)."""

    name: str
    dtype: str
    shape: Dims | None


@dataclass(frozen=True)
class LayerInfo:
    """A node of the canonical graph."""

    name: str
    operator: str
    output: str
    shape: Dims | None


class Model:
    """A model and how it is to be run.

    Args:
        source: Path, bytes or ``onnx.ModelProto``.
        providers: Execution providers for everything that runs on this handle.
        threads: Threads inside an operator; 0 lets the runtime choose.
        custom_ops: What implements the model's custom operators.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        providers: str | Sequence[ProviderSpec] | None = None,
        threads: int = 0,
        custom_ops: CustomOps | None = None,
    ) -> None:
        self.source: SourceModel = read_model(source)
        self.providers = providers
        self.threads = threads
        self.custom_ops = custom_ops

    @cached_property
    def canonical(self) -> ir.Model:
        """The canonical graph that every rewrite starts from."""
        return canonicalise(self.source)

    @cached_property
    def folded(self) -> ir.Model:
        """The canonical graph with BatchNormalization folded into convolutions."""
        model = self.canonical.clone()
        FoldBatchNormalizationPass()(model)
        return model

    def with_graph(self, canonical: ir.Model) -> Model:
        """This model with another canonical graph in the place of its own: other weights, say."""
        other = copy.copy(self)
        other.__dict__.pop("folded", None)
        other.__dict__["canonical"] = canonical
        return other

    @property
    def inputs(self) -> list[TensorInfo]:
        """What the model is fed."""
        return [_info(v) for v in self.canonical.graph.inputs]

    @property
    def outputs(self) -> list[TensorInfo]:
        """What it returns."""
        return [_info(v) for v in self.canonical.graph.outputs]

    @property
    def layers(self) -> list[LayerInfo]:
        """Its nodes in order, with the names that options like ``layers=`` match."""
        return [
            LayerInfo(label(n), describe(n), n.outputs[0].name or "", dims(n.outputs[0])) for n in self.canonical.graph
        ]

    @property
    def biases(self) -> list[str]:
        """Names of the parameters that are added somewhere: third operands of convolutions, constants of Add."""
        found = []
        for node in self.canonical.graph:
            places: tuple[int, ...] = ()
            if node.op_type in ("Conv", "ConvTranspose", "Gemm", "LayerNormalization", "BatchNormalization"):
                places = (2,)
            elif node.op_type in ("Add", "Sub"):
                places = (0, 1)
            for i in places:
                value = node.inputs[i] if i < len(node.inputs) else None
                if value is not None and constant(value) is not None and value.name and is_float(value):
                    found.append(value.name)
        return found

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata_props."""
        return {p.key: p.value for p in self.source.proto.metadata_props}

    def declared(self) -> dict[str, tuple[Any, Dims | None]]:
        """NumPy type and sizes per input, for validation."""
        result: dict[str, tuple[Any, Dims | None]] = {}
        for v in self.canonical.graph.inputs:
            result[v.name or ""] = (np.dtype((v.dtype or ir.DataType.FLOAT).numpy()), dims(v))
        return result

    def embeddings(self) -> list[str]:
        """Where integers become floats: results of embedding lookups, the largest table first; else of casts of pixels."""
        graph = self.canonical.graph
        return [node.outputs[0].name or "" for node in lookups(graph) or conversions(graph)]

    def summary(self) -> str:
        """A few lines: inputs, outputs, operators, opset."""
        counts: dict[str, int] = {}
        for layer in self.layers:
            counts[layer.operator] = counts.get(layer.operator, 0) + 1
        lines = [
            f"{self.source.name}: opset {self.source.opset}, {len(self.layers)} nodes, {len(self.biases)} bias tensors"
        ]
        lines += [f"  input  {t.name}: {t.dtype}{_shape_text(t.shape)}" for t in self.inputs]
        lines += [f"  output {t.name}: {t.dtype}{_shape_text(t.shape)}" for t in self.outputs]
        lines.append("  " + ", ".join(f"{k} {v}" for k, v in sorted(counts.items(), key=lambda kv: -kv[1])))
        return "\n".join(lines)


def _info(value: ir.Value) -> TensorInfo:
    return TensorInfo(value.name or "", value.dtype.name.lower() if value.dtype is not None else "unknown", dims(value))


def _shape_text(shape: Dims | None) -> str:
    return "[?]" if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def load(
    model: ModelSource | Model,
    *,
    providers: str | Sequence[ProviderSpec] | None = None,
    threads: int = 0,
    custom_ops: CustomOps | None = None,
) -> Model:
    """Read a model.

    Args:
        model: Path, bytes, proto, or a model that is loaded already.
        providers: Execution providers: ``"cuda"``, ``["cuda", "cpu"]``; the CPU by default.
        threads: Threads inside an operator; 0 lets the runtime choose.
        custom_ops: What implements operators that the runtime does not have: paths of libraries that
            onnxruntime loads (code that runs in this process), and ``onnx.reference.op_run.OpRun`` classes
            for ``providers="reference"``.

    Raises:
        ModelFileError: Not found, not ONNX, truncated, external data missing or outside the folder.
        UnsupportedVersionError: Opset or IR version out of range.
    """
    if isinstance(model, Model):
        return model
    return Model(model, providers=providers, threads=threads, custom_ops=custom_ops)
