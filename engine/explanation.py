"""The result of every method: what was attributed, and the evidence that it may be believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.errors import InputError, OptionError, OutputError, ResidualError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Residual:
    """How far a result is from what its method promises.

    Attributes:
        absolute: ``[N]``, float64: promised total minus the sum of the parts.
        relative: ``[N]``, float64: ``|absolute|`` over the sum of the parts' magnitudes.
        of: Which identity was checked, in words.
        tolerance: Relative size past which the result does not prove itself.
    """

    absolute: Array
    relative: Array
    of: str
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every sample is within tolerance."""
        return bool(np.all(self.relative <= self.tolerance))


@dataclass(frozen=True)
class TermInfo:
    """Where one bias term of a full-gradient result comes from.

    Attributes:
        node, operator: The forward node.
        kind: ``explicit`` or ``implicit``.
        parameter: The parameter's name, empty where it is none.
        tensor: The tensor that the bias is part of.
        placed: Whether the term has a place in the picture; else it counts as unattributed.
        mapped: Whether it is part of the saliency map.
    """

    node: str
    operator: str
    kind: str
    parameter: str
    tensor: str
    placed: bool
    mapped: bool


@dataclass(frozen=True)
class Terms:
    """The parts of a full-gradient decomposition: ``score = input + biases.sum(1) + residual``.

    Attributes:
        input: ``[N]``: ``<grad_x f, x>``.
        biases: ``[N, T]``: ``<a_v, c_v>`` per bias term.
        info: One entry per bias term.
        maps: Bias maps ``a_v * c_v`` in their tensors' shapes by term index, where they were asked for.
        unplaced: ``[N, T]``: what of each term has no place; of a term on a sequence with a class token, the class
            token's. None: all of every term that is not placed.
    """

    input: Array
    biases: Array
    info: tuple[TermInfo, ...]
    maps: dict[int, Array] = field(default_factory=dict)
    unplaced: Array | None = None

    def _sum(self, keep: Any) -> Array:
        mask = np.array([bool(keep(i)) for i in self.info], dtype=bool)
        return np.asarray(self.biases[:, mask].sum(axis=1)) if mask.size else np.zeros(len(self.input))

    @property
    def explicit(self) -> Array:
        """``[N]``: sum of the explicit bias terms."""
        return self._sum(lambda i: i.kind == "explicit")

    @property
    def implicit(self) -> Array:
        """``[N]``: sum of the implicit bias terms."""
        return self._sum(lambda i: i.kind == "implicit")

    @property
    def unattributed(self) -> Array:
        """``[N]``: sum of the bias terms that have no place in the picture, or of what of them has none."""
        return np.asarray(self._unplaced.sum(axis=1))

    @property
    def unattributed_share(self) -> Array:
        """``[N]``: magnitudes of what has no place, over the magnitudes of all terms; from 0 to 1."""
        unplaced = np.abs(self._unplaced)
        placed = np.abs(self.input) + np.abs(self.biases - self._unplaced).sum(axis=1)
        whole = placed + unplaced.sum(axis=1)
        return np.asarray(unplaced.sum(axis=1) / np.where(whole > 0, whole, 1.0))

    @property
    def _unplaced(self) -> Array:
        if self.unplaced is not None:
            return self.unplaced
        mask = np.array([not i.placed for i in self.info], dtype=bool)
        return np.where(mask, self.biases, 0.0)

    @property
    def unmapped(self) -> Array:
        """``[N]``: sum of the bias terms that are not part of the saliency map, for whatever reason."""
        return self._sum(lambda i: not i.mapped)

    @property
    def total(self) -> Array:
        """``[N]``: the whole decomposition."""
        return np.asarray(self.input + self.biases.sum(axis=1))

    @property
    def magnitude(self) -> Array:
        """``[N]``: sum of the magnitudes of all terms, the yardstick of the residual."""
        return np.asarray(np.abs(self.input) + np.abs(self.biases).sum(axis=1))


@dataclass
class Explanation:
    """What a method found, and how it can be checked.

    Attributes:
        attributions: Signed attribution per attributed tensor, in that tensor's shape; axioms hold for these.
        saliency: Map after the method's own reduction: ``(N, H, W)``, ``(N, T)``, ...; None for several inputs.
        score: ``[N]``: the explained scalar f(x).
        target: ``[N]`` flat index of the explained element; None where weights were given.
        target_shape: Shape of one sample's output, for reading the flat index.
        target_words: What was explained in words, where no index says it.
        head: ``logit``, ``probability``, ``log_probability`` or ``margin``: what scalar was explained. ``output`` for an
            answer that is not known to be a logit, as a tree ensemble's.
        head_note: In words, where a trailing activation was recognised.
        output: Name of the explained output.
        outputs: The model's own outputs.
        method, options, seed: What was asked for, every option included.
        terms: Full-gradient decomposition, for the methods that have one.
        baseline_score: ``[N]``: f at the baseline(s), averaged, for path methods.
        residual: The method's own check.
        quantisation: ``straight_through`` where the gradient passed quantised tensors, else ``none``.
        blocked: Nodes at which part of the gradient ends.
        notes: Remarks the user should see.
        standard_errors: Of the attributions, in their shapes, for methods that draw at random and can tell.
        provenance: Model hash, versions, provider, dtype.
    """

    attributions: dict[str, Array]
    saliency: Array | None
    score: Array
    target: Array | None
    target_shape: tuple[int, ...]
    head: str
    output: str
    method: str
    options: dict[str, Any]
    outputs: dict[str, Array] = field(default_factory=dict)
    head_note: str = ""
    target_words: str = ""
    seed: int = 0
    terms: Terms | None = None
    baseline_score: Array | None = None
    residual: Residual | None = None
    quantisation: str = "none"
    blocked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    signed: bool = False
    standard_errors: dict[str, Array] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.score)

    def require_proof(self) -> None:
        """Strict mode.

        Raises:
            ResidualError: The residual of some sample lies outside the tolerance.
        """
        if self.residual is not None and not self.residual.ok:
            worst = int(np.argmax(self.residual.relative))
            raise ResidualError(
                f"{self.method}: the {self.residual.of} of sample {worst} is off by "
                f"{self.residual.relative[worst]:.2e} relative, past the tolerance {self.residual.tolerance:.0e}"
            )

    def target_index(self, sample: int = 0) -> tuple[int, ...]:
        """The explained element's index in the sample's output."""
        if self.target is None:
            raise OptionError("this result was explained with given weights and has no target index")
        return tuple(int(i) for i in np.unravel_index(int(self.target[sample]), self.target_shape))

    # ----- pictures -------------------------------------------------------------------------------

    def map(self, sample: int = 0) -> Array:
        """One sample's saliency map.

        Raises:
            OptionError: The result has none (several attributed inputs).
        """
        if self.saliency is None:
            raise OptionError("this result has several attributed inputs and no single map; use .attributions")
        return np.asarray(self.saliency[sample])

    def overlay(self, image: Array, sample: int = 0) -> Array:
        """The map laid over a picture.

        Args:
            image: ``uint8 (H, W, 3)``, RGB.
            sample: Which row of the batch.

        Returns:
            ``uint8 (H, W, 3)``, RGB.
        """
        from onnxplain.engine.render.overlay import overlay

        return overlay(image, self.map(sample), signed=self.signed)

    def _repr_png_(self) -> bytes | None:
        if self.saliency is None or self.saliency.ndim != 3:
            return None
        from onnxplain.engine.render.picture import map_png

        return map_png(self)

    # ----- files ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the result; the suffix decides the form: ``.npz``, ``.json``, ``.safetensors`` or ``.png``.

        Raises:
            OutputError: Unknown suffix, or the file cannot be written; nothing half-written is left.
        """
        from onnxplain.engine.saving import save_explanation

        return save_explanation(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Explanation:
        """Read a result back from ``.npz`` or ``.safetensors``.

        Raises:
            InputError: The file is no such result.
        """
        from onnxplain.engine.saving import load_explanation

        return load_explanation(Path(path))

    def summary(self, sample: int = 0) -> dict[str, Any]:
        """One sample's figures as plain data, for JSON and for printing."""
        result: dict[str, Any] = {
            "method": self.method,
            "output": self.output,
            "head": self.head,
            "score": float(self.score[sample]),
        }
        if self.target is not None:
            index = self.target_index(sample)
            result["target"] = index[0] if len(index) == 1 else list(index)
        elif self.target_words:
            result["target"] = self.target_words
        if self.baseline_score is not None:
            result["baseline_score"] = float(self.baseline_score[sample])
        if self.residual is not None:
            result["residual"] = {
                "of": self.residual.of,
                "absolute": float(self.residual.absolute[sample]),
                "relative": float(self.residual.relative[sample]),
                "tolerance": self.residual.tolerance,
                "ok": bool(self.residual.relative[sample] <= self.residual.tolerance),
            }
        if self.terms is not None:
            result["terms"] = {
                "input": float(self.terms.input[sample]),
                "explicit": float(self.terms.explicit[sample]),
                "implicit": float(self.terms.implicit[sample]),
                "unattributed": float(self.terms.unattributed[sample]),
                "unattributed_share": float(self.terms.unattributed_share[sample]),
            }
        if self.quantisation != "none":
            result["quantisation"] = self.quantisation
        if self.blocked:
            result["blocked"] = list(self.blocked)
        if self.notes:
            result["notes"] = list(self.notes)
        return result


def jsonable(value: Any) -> Any:
    """``value`` as plain JSON data; arrays become lists."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    json.dumps(value)
    return value


__all__ = ["Explanation", "InputError", "OutputError", "Residual", "TermInfo", "Terms", "jsonable"]
