"""Runs the methods over the samples, and says what came out: as tables, and as one JSON document."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxplain.cli.console import Steps, console, table
from onnxplain.engine.errors import (
    BlockedGradientError,
    InputError,
    OptionError,
    ResidualError,
    TargetError,
    UnsupportedNodeError,
)

if TYPE_CHECKING:
    from onnxplain.cli.samples import Sample, Samples
    from onnxplain.engine.explanation import Explanation

#: How many of the largest attributions are printed where there is no picture to look at.
LARGEST = 5


@dataclass
class Column:
    """One method's results: an explanation per batch, and where each sample's row is.

    Attributes:
        method: Its name.
        number: Which of several targets, from 1; None where there is one.
    """

    method: str
    number: int | None = None
    parts: list[Explanation] = field(default_factory=list)
    seconds: float = 0.0
    _rows: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is called beside others."""
        return self.method if self.number is None else f"{self.method} #{self.number}"

    @property
    def stem(self) -> str:
        """What its files are called beside others."""
        return self.method if self.number is None else f"{self.method}.{self.number}"

    def add(self, explanation: Explanation, places: Sequence[int], seconds: float) -> None:
        """Keep one batch's result."""
        self._rows |= {place: (len(self.parts), row) for row, place in enumerate(places)}
        self.parts.append(explanation)
        self.seconds += seconds

    def of(self, place: int) -> tuple[Explanation, int]:
        """A sample's explanation and its row in it."""
        part, row = self._rows[place]
        return self.parts[part], row

    @property
    def ok(self) -> bool:
        """Whether every result that has a residual is within its tolerance."""
        return all(part.residual is None or part.residual.ok for part in self.parts)


@dataclass
class Results:
    """All methods over all samples.

    Attributes:
        model: The loaded model.
        samples: What was explained.
        labels: Class names, where there are any.
        columns: One per method.
        kind: ``picture``, ``series``, ``tokens``, ``table`` or ``other``.
        preprocessing: As declared, as plain data; None for arrays without one.
        vocabulary: Token by id, where it was given.
    """

    model: Any
    samples: list[Sample]
    labels: list[str] | None
    columns: list[Column]
    kind: str
    preprocessing: dict[str, Any] | None = None
    vocabulary: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def label(self, explanation: Explanation, row: int) -> str:
        """The target's class name; empty without one."""
        if explanation.target is None or len(explanation.target_shape) != 1 or not self.labels:
            return ""
        index = int(explanation.target[row])
        return self.labels[index] if len(self.labels) == explanation.target_shape[0] else ""

    @property
    def ok(self) -> bool:
        """Whether everything that can prove itself does."""
        return all(column.ok for column in self.columns)

    def require_proof(self) -> None:
        """Raise ResidualError where a result does not prove itself; the message names the worst sample."""
        worst = (0.0, "")
        for column in self.columns:
            for place, sample in enumerate(self.samples):
                explanation, row = column.of(place)
                residual = explanation.residual
                if residual is None or residual.relative[row] <= residual.tolerance:
                    continue
                past = float(residual.relative[row]) / residual.tolerance
                words = f"{residual.relative[row]:.1e} relative, past the tolerance {residual.tolerance:.0e}"
                found = (past, f"{column.title} on {sample.name}: the {residual.of} is off by {words}")
                worst = max(worst, found)
        if worst[1]:
            raise ResidualError(f"{worst[1]}; nothing was written")


def kind_of(model: Any, samples: Samples, wrt: Sequence[str] | None) -> str:
    """What kind of map comes out, from the model's inputs: decides what can be drawn."""
    if wrt:
        return "other"
    floats = [name for name, (dtype, _) in model.declared().items() if dtype.kind == "f" or "float" in dtype.name]
    if not floats:
        return "tokens"
    if len(floats) > 1:
        return "other"
    return {4: "picture", 3: "series", 2: "table"}.get(samples.batches[0].feeds[floats[0]].ndim, "other")


def run_methods(
    model: Any,
    samples: Samples,
    configured: Mapping[str, dict[str, Any]],
    target: Any,
    steps: Steps,
    refused: dict[str, str] | None = None,
    **how: Any,
) -> list[Column]:
    """Explain every batch by every method.

    Args:
        configured: Options per method.
        target: As :func:`onnxplain.cli.literals.target_of` returns it.
        steps: Progress; one step per method and batch.
        refused: Where given, a method that does not suit the model or the input goes here with its reason,
            and the others go on.
        how: ``output``, ``head``, ``wrt``, ``layout``, ``memory_mib``, ``seed``.

    Raises:
        TargetError: Not one target per sample; and whatever the engine refuses.
    """
    count = len(samples.samples)
    if isinstance(target, list) and len(target) not in (1, count):
        raise TargetError(f"{len(target)} targets for {count} samples; give one for all, or one per sample")
    columns = []
    for name, options in configured.items():
        steps.begin(name)
        try:
            columns += _columns(model, samples, name, options, target, steps, **how)
        except (OptionError, InputError, UnsupportedNodeError, BlockedGradientError) as error:
            if refused is None:
                raise
            refused[name] = str(error)
    if refused and not columns:
        raise OptionError(f"none of the methods serves this: {next(iter(refused))}: {next(iter(refused.values()))}")
    return columns


def _columns(
    model: Any,
    samples: Samples,
    name: str,
    options: dict[str, Any],
    target: Any,
    steps: Steps,
    seed: int = 0,
    **how: Any,
) -> list[Column]:
    """One method's column, or one per target."""
    import onnxplain
    from onnxplain.engine.targets import as_targets

    explainer = onnxplain.compile(model, method=name, **how, **options)
    several = as_targets(target)
    found = [Column(name, i + 1 if several is not None else None) for i in range(len(several or [0]))]
    for batch in samples.batches:
        one = [target[i] for i in batch.places] if isinstance(target, list) and len(target) > 1 else target
        start = time.perf_counter()
        answer = explainer(batch.feeds, target=one, seed=seed)
        seconds = time.perf_counter() - start
        for column, explanation in zip(found, answer if isinstance(answer, list) else [answer], strict=True):
            column.add(explanation, batch.places, seconds / len(found))
        steps.finish()
    return found


def check_labels(labels: Sequence[str] | None, columns: Sequence[Column], *, named: bool) -> list[str]:
    """Labels that do not fit the output name wrong classes: refused where the user named the file, else left out.

    Raises:
        InputError: ``named``, and their number is not that of the output's elements.
    """
    shape = columns[0].parts[0].target_shape
    if not labels or len(shape) != 1 or len(labels) == shape[0]:
        return []
    what = f"there are {len(labels)} labels for {shape[0]} classes"
    if named:
        raise InputError(f"{what}, so that names would be wrong; give a file with one name per class")
    return [f"{what}; they are not used"]


# ---------------------------------------------------------------------------------------------- tables


def number(value: float, digits: int = 5) -> str:
    """A figure as people read it."""
    return f"{value:.{digits}g}"


def target_text(results: Results, explanation: Explanation, row: int) -> str:
    """Index and class name of what was explained."""
    if explanation.target is None:
        return explanation.target_words or "weights"
    index = explanation.target_index(row)
    shown = str(index[0]) if len(index) == 1 else str(index)
    return f"{shown} {results.label(explanation, row)}".strip()


def _proof(explanation: Explanation, row: int) -> Any:
    from rich.text import Text

    if explanation.residual is None:
        return Text("-", style="dim")
    relative = float(explanation.residual.relative[row])
    if relative <= explanation.residual.tolerance:
        return Text.assemble(f"{relative:.1e} ", ("ok", "green"))
    return Text.assemble(f"{relative:.1e} ", (f"NOT OK, past {explanation.residual.tolerance:.0e}", "bold red"))


def show_results(results: Results) -> None:
    """Print everything a reader wants to know about a run."""
    screen = console()
    first, _ = results.columns[0].of(0)
    where = ", ".join(first.provenance.get("providers", []))
    screen.print(f"{Path(results.model.source.name).name}: {first.head} of '{first.output}', on {where}")
    screen.print()
    if len(results.samples) == 1:
        _show_one(results)
    else:
        for column in results.columns:
            _show_many(results, column)
    for column in results.columns:
        _show_terms(results, column)
        if results.kind in ("table", "tokens"):
            _show_largest(results, column)
    for note in all_notes(results):
        screen.print(f"note: {note}", style="yellow")


def _per_sample(results: Results, column: Column) -> str:
    milliseconds = 1e3 * column.seconds / len(results.samples)
    if milliseconds >= 1000:
        return f"{milliseconds / 1e3:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _show_one(results: Results) -> None:
    """One sample: its target and score once, then a row per method."""
    explanation, row = results.columns[0].of(0)
    screen = console()
    screen.print(results.samples[0].name, style="bold")
    several = any(column.number is not None for column in results.columns)
    if not several:
        screen.print(f"  target  {target_text(results, explanation, row)}")
        screen.print(f"  score   {number(float(explanation.score[row]))} ({explanation.head})")
        screen.print()
    more = ("target", "score") if several else ()
    made = table("method", *more, "residual", "time", numbers=("score", "time"))
    for column in results.columns:
        e, i = column.of(0)
        cells = (target_text(results, e, i), number(float(e.score[i]))) if several else ()
        made.add_row(column.title, *cells, _proof(e, i), _per_sample(results, column))
    screen.print(made)
    screen.print()


def _show_many(results: Results, column: Column) -> None:
    from rich.text import Text

    screen = console()
    screen.print(Text.assemble((column.title, "bold"), f"  {_per_sample(results, column)} a sample"))
    made = table("sample", "target", "score", "residual", numbers=("score",), shrink="sample")
    for place, sample in enumerate(results.samples):
        explanation, row = column.of(place)
        score = number(float(explanation.score[row]))
        made.add_row(sample.name, target_text(results, explanation, row), score, _proof(explanation, row))
    screen.print(made)
    screen.print()


def _show_terms(results: Results, column: Column) -> None:
    """How a full-gradient decomposition adds up."""
    if column.of(0)[0].terms is None:
        return
    figures = ("input", "explicit", "implicit", "unattributed")
    made = table("sample", *figures, numbers=figures, shrink="sample")
    for place, sample in enumerate(results.samples):
        explanation, row = column.of(place)
        if explanation.terms is not None:
            values = [f"{float(getattr(explanation.terms, key)[row]):+.4g}" for key in figures]
            values[-1] += f" ({float(explanation.terms.unattributed_share[row]):.0%})"
            made.add_row(sample.name, *values)
    screen = console()
    screen.print(
        f"{column.title}: score = input + explicit + implicit (unattributed: without a place, with its share of all terms)"
    )
    screen.print(made)
    screen.print()


def _show_largest(results: Results, column: Column) -> None:
    """The largest attributions of each sample by name, for what is no picture."""
    import numpy as np

    made = table("sample", "largest attributions", shrink="largest attributions")
    for place, sample in enumerate(results.samples):
        explanation, row = column.of(place)
        if explanation.saliency is None or explanation.saliency.ndim != 2:
            return
        values = explanation.saliency[row]
        order = np.argsort(-np.abs(values), kind="stable")[:LARGEST]
        names = position_names(results, place, len(values))
        made.add_row(sample.name, ", ".join(f"{names[i]} {float(values[i]):+.3g}" for i in order))
    screen = console()
    screen.print(column.title, style="bold")
    screen.print(made)
    screen.print()


def position_names(results: Results, place: int, count: int) -> list[str]:
    """Names of a sample's positions: its tokens, or the table's columns, where they are known, else numbers in brackets."""
    if results.kind == "table":
        from onnxplain.engine.inputs import features_from_metadata

        known = features_from_metadata(results.model.metadata)
        return known if known is not None and len(known) == count else [f"[{k}]" for k in range(count)]
    if results.kind != "tokens":
        return [f"[{k}]" for k in range(count)]
    ids = results.samples[place].ids
    if ids is None or len(ids) != count:
        return [f"[{k}]" for k in range(count)]
    return [results.vocabulary.get(int(i), str(int(i))) for i in ids]


def all_notes(results: Results) -> list[str]:
    """Remarks on the run, each once, with the method's name where it is that method's own."""
    found = list(results.notes)
    for column in results.columns:
        prefix = f"{column.method}: " if len(results.columns) > 1 else ""
        for explanation in column.parts:
            found += [explanation.head_note] if explanation.head_note else []
            if explanation.quantisation != "none":
                found.append(_QUANTISED[explanation.quantisation])
            found += [f"the gradient ends at {blocked}" for blocked in explanation.blocked]
            found += [prefix + note for note in explanation.notes]
    return list(dict.fromkeys(found))


_QUANTISED = {
    "straight_through": "the model is quantised; gradients pass its rounding straight through",
    "float_shadow": "the model is quantised; its float form without rounding was explained",
}


# ------------------------------------------------------------------------------------------------ JSON


def document(results: Results, *, timing: bool) -> dict[str, Any]:
    """The run as plain data; without timing it is the same for the same request."""
    from onnxplain.engine.explanation import jsonable

    methods = []
    for column in results.columns:
        first = column.parts[0]
        entry: dict[str, Any] = {
            "method": column.method,
            **({} if column.number is None else {"number": column.number}),
            "options": jsonable(first.options),
            "seed": first.seed,
            "head": first.head,
            "quantisation": first.quantisation,
            "output": first.output,
            "ok": column.ok,
            "provenance": jsonable(first.provenance),
            "samples": [_sample_entry(results, column, place) for place in range(len(results.samples))],
        }
        if timing:
            entry["seconds_per_sample"] = column.seconds / len(results.samples)
        methods.append(entry)
    return {
        "model": str(results.model.source.name),
        "kind": results.kind,
        "preprocessing": results.preprocessing,
        "methods": methods,
        "notes": all_notes(results),
    }


def _sample_entry(results: Results, column: Column, place: int) -> dict[str, Any]:
    explanation, row = column.of(place)
    summary = explanation.summary(row)
    for common in ("method", "output", "head", "notes", "blocked", "quantisation"):
        summary.pop(common, None)
    label = results.label(explanation, row)
    entry = {"name": results.samples[place].name, "path": str(results.samples[place].path), **summary}
    return {**entry, "label": label} if label else entry
