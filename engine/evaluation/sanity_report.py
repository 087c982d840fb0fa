"""What sanity checks found: similarities beside their null values, and a verdict that says how sure it is.

The rule. A map after an intervention (weights drawn anew, another class asked for) is compared with the map before it.
Its similarity alone says little: smooth maps of any two pictures are alike. So every similarity ``s`` stands beside
the null value ``n``, the similarity of maps of *different pictures* by the untouched net, and is expressed as the
**share kept**: ``mean(s - n) / mean(1 - n)``, over samples, draws and the check's steps. 1: the map stays as it was.
0: it is as unlike as the map of another picture.

- ``pass``: the upper end of the share's 95 % interval is at most 0.2. This is a test of equivalence with the null: few
  or scattered samples give a wide interval, and a wide interval never passes.
- ``fail``: the lower end is at least 0.5, or the similarity itself is 0.95 or more with the same certainty (which
  needs no null: a map that is the same for every picture leaves none).
- ``undecided``: anything else; fewer than 5 samples; or null values so near 1 that nothing can be told apart.

Intervals are bootstrapped over samples and over draws of the weights at once, as one unlucky draw moves all samples
together; with one draw they tell of the samples alone.

A check is decided by rank correlation: with signs where the map has both, of magnitudes where it has not.
The other similarities are evidence. A method passes when cascading randomisation and the classes both pass, and
fails when one of them fails. ``independent`` is evidence alone: in a net with shortcuts one layer among many may
rightly matter little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.evaluation.reference import REFERENCES
from onnxplain.engine.evaluation.report import COVERED, RESAMPLES, plain, save_table
from onnxplain.engine.evaluation.similarity import mean_known
from onnxplain.engine.explanation import Array

Verdict = Literal["pass", "fail", "undecided"]

#: Most of the share kept that passes, least that fails, least similarity that fails whatever the null.
PASSES, FAILS, SAME = 0.2, 0.5, 0.95
#: Fewest samples for a verdict, and least distance of the null from 1.
FEWEST, ROOM = 5, 0.1
#: Checks that decide.
DECIDING = ("cascading", "classes")


@dataclass(frozen=True)
class Evidence:
    """One method, one check, one similarity.

    Attributes:
        similarity: Its name.
        steps: Mean similarity after each step of the check.
        null_image: Mean similarity of maps of different pictures.
        null_network: Mean similarity to the map of the same picture by another net, drawn anew as a whole: what is
            above ``null_image`` comes from the picture alone.
        kept, low, high: Share kept, and its interval.
        verdict: By this similarity alone.
        reason: In words.
    """

    similarity: str
    steps: dict[str, float]
    null_image: float
    null_network: float
    kept: float
    low: float
    high: float
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class SanityResult:
    """One method by one check.

    Attributes:
        method, options: What explained.
        check: ``cascading``, ``independent`` or ``classes``.
        steps: What was drawn anew, or which other class was asked for.
        values: ``[D, S, N]`` per similarity: draws, steps, samples; NaN where it is not defined.
        null_image, null_network: ``[N]`` per similarity.
        signed: Whether the method's map has both signs.
        notes: What else should be known.
    """

    method: str
    options: dict[str, Any]
    check: str
    steps: list[str]
    values: dict[str, Array]
    null_image: dict[str, Array]
    null_network: dict[str, Array]
    signed: bool
    notes: list[str] = field(default_factory=list)

    @property
    def decisive(self) -> str:
        """The similarity that decides; the first one where the usual ones were not asked for."""
        wanted = "spearman" if self.signed else "spearman_absolute"
        return wanted if wanted in self.values else next(iter(self.values))

    def evidence(self, similarity: str) -> Evidence:
        """What one similarity says."""
        values, null = self.values[similarity], self.null_image[similarity]
        same, kept = _intervals(mean_known(values, axis=1), null)
        verdict, reason = _judged(same, kept, null, values)
        means = mean_known(values, axis=(0, 2))
        steps = {name: float(m) for name, m in zip(self.steps, means, strict=True)}
        other = float(mean_known(self.null_network[similarity]))
        return Evidence(similarity, steps, float(mean_known(null)), other, *kept, verdict, reason)

    @property
    def verdict(self) -> Verdict:
        """By the similarity that decides."""
        return self.evidence(self.decisive).verdict


def _intervals(values: Array, null: Array) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean similarity and share kept, each with its interval.

    Args:
        values: ``[D, N]``.
        null: ``[N]``.
    """
    known = np.isfinite(null) & np.isfinite(values).any(axis=0)
    values, null = values[:, known], null[known]
    if not len(null):
        return (np.nan,) * 3, (np.nan,) * 3
    rng = generator(0)
    # How often each draw and each sample is taken; the first time, everything once.
    draws = np.vstack([np.ones(len(values)), _taken(rng, len(values))])
    rows = np.vstack([np.ones(len(null)), _taken(rng, len(null))])
    defined = np.isfinite(values)
    total = (draws * (rows @ np.where(defined, values, 0.0).T)).sum(axis=1)
    count = (draws * (rows @ defined.T.astype(np.float64))).sum(axis=1)
    mean = total / np.where(count > 0, count, np.nan)
    floor = rows @ null / len(null)
    room = np.where(1.0 - floor > ROOM, 1.0 - floor, np.nan)
    return _with_ends(mean), _with_ends((mean - floor) / room)


def _taken(rng: np.random.Generator, count: int) -> Array:
    """How often each of so many things is in each resample, ``[R, count]``."""
    found = np.zeros((RESAMPLES, count))
    chosen = rng.integers(count, size=(RESAMPLES, count))
    np.add.at(found, (np.arange(RESAMPLES)[:, None], chosen), 1.0)
    return found


def _with_ends(found: Array) -> tuple[float, float, float]:
    """The first value, and the interval of the others."""
    low, high = np.quantile(found[1:], [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(found[0]), float(low), float(high)


def _judged(
    same: tuple[float, float, float], kept: tuple[float, float, float], null: Array, values: Array
) -> tuple[Verdict, str]:
    count = int((np.isfinite(null) & np.isfinite(values).any(axis=(0, 1))).sum())
    if count < FEWEST:
        return "undecided", f"{count} samples can be judged; give at least {FEWEST}"
    if same[1] >= SAME:
        return "fail", f"the map stays as it was: similarity {same[0]:.2f}"
    if not np.isfinite(kept).all():
        return "undecided", f"maps of different pictures are as alike: {float(mean_known(null)):.2f}"
    words = f"{kept[0]:.0%} of the similarity is kept ({kept[1]:.0%} to {kept[2]:.0%})"
    if kept[2] <= PASSES:
        return "pass", words
    return ("fail" if kept[1] >= FAILS else "undecided"), words


@dataclass
class SanityReport:
    """All sanity checks of a model.

    Attributes:
        results: One per method and check.
        names: Of the samples.
        provenance: Model, versions, what was drawn and how.
    """

    results: list[SanityResult]
    names: list[str]
    provenance: dict[str, Any]

    @property
    def methods(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(r.method for r in self.results))

    def result(self, method: str, check: str) -> SanityResult:
        """One method by one check."""
        return next(r for r in self.results if r.method == method and r.check == check)

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Per method: ``pass``, ``fail`` or ``undecided``; see the module's text."""
        return {name: self._verdict(name) for name in self.methods}

    def _verdict(self, method: str) -> Verdict:
        found = [r.verdict for r in self.results if r.method == method and r.check in DECIDING]
        if "fail" in found:
            return "fail"
        return "pass" if found and set(found) == {"pass"} else "undecided"

    @property
    def remarks(self) -> list[str]:
        """What a verdict alone does not tell: maps that pass with their sign, and whose magnitudes stay."""
        found = []
        for r in self.results:
            if r.check in DECIDING and r.verdict == "pass" and "spearman_absolute" in r.values:
                e = r.evidence("spearman_absolute")
                if e.verdict == "fail":
                    found.append(
                        f"{r.method}: the {r.check} check passes with the map's sign and fails without it ({e.reason}); "
                        "do not read its magnitudes alone"
                    )
        return found

    @property
    def ok(self) -> bool:
        """Whether no method fails; maps that know nothing of the model are there to fail, and do not count."""
        return not any(v == "fail" for name, v in self.verdicts.items() if name not in REFERENCES)

    def rows(self) -> list[dict[str, Any]]:
        """The table as data: one line per method, check and similarity."""
        return [
            {
                "method": r.method,
                "check": r.check,
                "similarity": e.similarity,
                "decides": e.similarity == r.decisive and r.check in DECIDING,
                "first": next(iter(e.steps.values())),
                "last": list(e.steps.values())[-1],
                "null_image": e.null_image,
                "null_network": e.null_network,
                "kept": e.kept,
                "low": e.low,
                "high": e.high,
                "verdict": e.verdict,
            }
            for r, e in self._evidence()
        ]

    def _evidence(self) -> Iterator[tuple[SanityResult, Evidence]]:
        for result in self.results:
            for similarity in result.values:
                yield result, result.evidence(similarity)

    def values(self) -> list[dict[str, Any]]:
        """Every similarity: one line per method, check, similarity, draw, step and sample; nulls have no draw."""
        rows = []
        for r in self.results:
            for similarity, values in r.values.items():
                common = {"method": r.method, "check": r.check, "similarity": similarity}
                for (d, s, n), value in np.ndenumerate(values):
                    step = {"step": r.steps[s], "draw": d, "sample": self.names[n], "value": float(value)}
                    rows.append({**common, **step})
                for name, nulls in (("null: image", r.null_image), ("null: network", r.null_network)):
                    for n, value in enumerate(nulls[similarity]):
                        step = {"step": name, "draw": -1, "sample": self.names[n], "value": float(value)}
                        rows.append({**common, **step})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; NaN becomes None."""
        results = [
            {
                "method": r.method,
                "options": r.options,
                "check": r.check,
                "verdict": r.verdict,
                "decided_by": r.decisive,
                "evidence": [vars(r.evidence(s)) for s in r.values],
                "values": r.values,
                "null_image": r.null_image,
                "null_network": r.null_network,
                "notes": r.notes,
            }
            for r in self.results
        ]
        document: dict[str, Any] = {"provenance": self.provenance, "names": self.names, "verdicts": self.verdicts}
        document |= {"remarks": self.remarks, "results": results}
        found: dict[str, Any] = plain(document)
        return found

    def save(self, path: str | Path) -> Path:
        """Write ``.csv`` (every value), ``.parquet`` (the same; needs pyarrow) or ``.json`` (everything).

        Raises:
            OutputError: Unknown suffix, or the file cannot be written.
        """
        return save_table(path, self.values(), self.to_dict())
