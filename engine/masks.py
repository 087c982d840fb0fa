"""Altered inputs and their scores: what every method shares that only runs the model.

Points are made in blocks that fit into memory, sample by sample within each turn, and scored with the
target of their own clean input. Guarantees: neither the size of a block nor that of a batch changes a
score but for rounding, and a sample's points depend on that sample alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxplain.engine import method as host
from onnxplain.engine.explanation import Array
from onnxplain.engine.method import Run
from onnxplain.engine.players import Players

#: Alters one point in place: its array per input, the sample it was copied from, and which turn it is.
Change = Callable[[dict[str, Array], int, int], None]


def score_blocks(run: Run, turns: int | Array, change: Change) -> Iterator[tuple[Array, Array, Array]]:
    """Scores of altered copies of the samples.

    Args:
        run: The run.
        turns: Copies per sample: one number, or one per sample.
        change: What is altered.

    Yields:
        Samples, turns and scores (float64) of a block, ``[B]`` each; every pair comes once.
    """
    count = len(run.score)
    limits = np.broadcast_to(np.asarray(turns), (count,))
    block = max(1, host.STAGING_BYTES // max(1, sum(a[:1].nbytes for a in run.x.values())))
    for samples, numbers in _pairs(limits, block):
        points = {n: a[samples] for n, a in run.x.items()}
        for row, (sample, turn) in enumerate(zip(samples.tolist(), numbers.tolist(), strict=True)):
            change({n: a[row] for n, a in points.items()}, sample, turn)
        scores = run.evaluate(points, samples, ["score"])["score"]
        yield samples, numbers, np.asarray(scores, dtype=np.float64).reshape(-1)


def _pairs(limits: Array, block: int) -> Iterator[tuple[Array, Array]]:
    """(sample, turn) pairs, turn by turn, so that the samples of a block are as different as they can be."""
    count = len(limits)
    total = count * int(limits.max(initial=0))
    for first in range(0, total, block):
        numbers = np.arange(first, min(first + block, total))
        samples, turns = numbers % count, numbers // count
        there = turns < limits[samples]
        if there.any():
            yield samples[there], turns[there]


@dataclass(frozen=True)
class Game:
    """The score as a function of the players that are present; the others have their baseline's values.

    Attributes:
        run: The run.
        players: Who plays.
        baselines: One or several; the value of a coalition is the mean over them.
    """

    run: Run
    players: Players
    baselines: Sequence[dict[str, Array]]

    def values(self, turns: int | Array, present: Callable[[int, int], Array]) -> list[Array]:
        """Values of coalitions.

        Args:
            turns: How many, for all samples or per sample.
            present: Which players are there, bool ``[players]``, for a sample and a turn.

        Returns:
            Per sample, float64 ``[turns]``.
        """
        limits = np.broadcast_to(np.asarray(turns), (len(self.run.score),))
        several = len(self.baselines)
        result = [np.zeros(int(n)) for n in limits]

        def change(point: dict[str, Array], sample: int, turn: int) -> None:
            there = present(sample, turn // several)
            for name, array in point.items():
                away = self.baselines[turn % several][name][sample]
                np.copyto(array, away, where=~there[self.players.owner[name][self._row(name, sample)]])

        for samples, numbers, scores in score_blocks(self.run, limits * several, change):
            for sample, turn, score in zip(samples.tolist(), numbers.tolist(), scores.tolist(), strict=True):
                result[sample][turn // several] += score / several
        return result

    def _row(self, name: str, sample: int) -> int:
        return sample if len(self.players.owner[name]) > 1 else 0

    def nobody(self) -> Array:
        """Value of the empty coalition, ``[N]``: the score at the baseline."""
        counts = self.players.counts
        return np.concatenate(self.values(1, lambda sample, _: np.zeros(int(counts[sample]), dtype=bool)))
