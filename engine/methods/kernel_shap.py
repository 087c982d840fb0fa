"""KernelSHAP: Shapley values as the solution of a weighted regression over coalitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.masks import Game
from onnxplain.engine.method import Parts, Plan, Run, method
from onnxplain.engine.methods.perturbation import Perturbation
from onnxplain.engine.paths import baseline_sets, convergence
from onnxplain.engine.players import check_players, make_players
from onnxplain.engine.shipping.games import ship_game

#: Relative gap of the sum that float32 attributions leave; the regression itself keeps it exactly.
TOLERANCE = 1e-4

#: Coalitions per sample where none are asked for: this many, and two per player.
USUAL_DRAWS = 2048

#: Bytes of a sample's regression past which it is refused: it would take hours where it fits into memory at all.
LARGEST_PROBLEM = 1 << 30


@method("kernel_shap")
class KernelSHAP(Perturbation):
    """The additive game that is nearest to the score's, by the Shapley kernel, with the sum held exactly.

    With few players all coalitions are evaluated, and the result is the Shapley values themselves. With more,
    coalitions of the heaviest sizes are taken whole, smallest and largest first, and the rest is drawn in
    pairs of complements. A player's value is spread evenly over its elements.

    Args:
        draws: Coalitions per sample, a forward pass each; by default 2048 and two per player.
        players: See :mod:`onnxplain.engine.players`.
        baseline: What absent players are replaced by: see :mod:`onnxplain.engine.baselines`; scores are averaged
            over several.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "Shapley values by regression over coalitions; forward passes alone"
    source: ClassVar[str] = "Lundberg and Lee 2017, arXiv 1705.07874, section 4.1"
    axioms: ClassVar[frozenset[str]] = frozenset(
        {"completeness", "implementation_invariance", "linearity", "sensitivity"}
    )
    quick: ClassVar[Mapping[str, Any]] = {"draws": 200}

    draws: int | None = None
    players: Any = "auto"
    baseline: Any = "zero"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_players(self.players)
        if self.draws is not None and self.draws < 2:
            raise OptionError(f"draws={self.draws} must be at least 2, or None for the default")

    def reduce(self, run: Run) -> Parts:
        players = make_players(self.players, run.x, run.labels)
        game = Game(run, players, baseline_sets(self.baseline, run))
        empty = game.nobody()
        plans = [self._plan(run.seed, int(count)) for count in players.counts]
        turns = np.array([len(coalitions) for coalitions, _ in plans])
        scores = game.values(turns, lambda sample, turn: np.asarray(plans[sample][0][turn]))
        change = run.score - empty
        values = [
            solve(coalitions, weights, found - empty[n], float(change[n]))
            for n, ((coalitions, weights), found) in enumerate(zip(plans, scores, strict=True))
        ]
        attributions = players.spread(values, run.x)
        residual = convergence(attributions, change, TOLERANCE, "sum of the players' values")
        whole = all(len(scores[n]) == 2**count - 2 for n, count in enumerate(players.counts.tolist()))
        notes = [f"{players.describe()}, " + ("all coalitions: exact" if whole else f"{turns.max()} coalitions")]
        return self.parts(run, attributions, residual=residual, baseline_score=empty, notes=notes)

    def ship(self, plan: Plan) -> None:
        ship_game(plan, self.players, self.baseline, self._shipped, self.reduction)

    def _shipped(self, seed: int, count: int) -> tuple[Array, Array]:
        """The coalitions of a file, nobody first, and what turns their scores into values."""
        coalitions, weights = self._plan(seed, count)
        nobody = np.zeros((1, count), dtype=bool)
        return np.concatenate([nobody, coalitions]), solution(coalitions, weights)

    def _plan(self, seed: int, count: int) -> tuple[Array, Array]:
        draws = USUAL_DRAWS + 2 * count if self.draws is None else self.draws
        if draws < 2 * count and draws < 2**count - 2:
            raise OptionError(
                f"draws={draws} are too few for {count} players: the regression has no single answer; "
                f"give at least {2 * count}, or fewer players, such as players='grid:4'"
            )
        if 8 * draws * count > LARGEST_PROBLEM:
            raise OptionError(
                f"{count} players with {draws} coalitions make a regression of {8e-9 * draws * count:.0f} GB; "
                "give fewer players, such as players='grid:8' or 'slic:50'"
            )
        return coalition_plan(count, draws, seed)


def coalition_plan(count: int, draws: int, seed: int) -> tuple[Array, Array]:
    """Which coalitions are evaluated, and their weights in the regression.

    Args:
        count: Number of players.
        draws: Coalitions at most.
        seed: Of random coalitions.

    Returns:
        bool ``[M, players]`` and float64 ``[M]``; neither the full nor the empty coalition is among them.
    """
    left = min(draws, 2**count - 2)
    rows: list[Array] = []
    weights: list[float] = []
    sizes = list(range(1, count // 2 + 1))
    # All coalitions of a size and of its complement's together: (count - 1) / (size (count - size)) each.
    mass = {s: (count - 1) / (s * (count - s)) * (1 if 2 * s == count else 2) for s in sizes}
    while sizes:
        size = sizes[0]
        many = math.comb(count, size) * (1 if 2 * size == count else 2)
        # A size is taken whole once sampling would be expected to draw as many of it.
        if left * mass[size] / sum(mass[s] for s in sizes) < many * (1 - 1e-9):
            break
        for chosen in itertools.combinations(range(count), size):
            row = np.zeros(count, dtype=bool)
            row[list(chosen)] = True
            both = [row] if 2 * size == count else [row, ~row]
            rows += both
            weights += [mass[size] / many] * len(both)
        left -= many
        sizes.pop(0)
    if sizes and left > 0:
        drawn, times = _drawn(count, sizes, np.array([mass[s] for s in sizes]), left, seed)
        rows += drawn
        weights += list(times * (sum(mass[s] for s in sizes) / times.sum()))
    return np.array(rows, dtype=bool).reshape(-1, count), np.array(weights, dtype=np.float64)


def _drawn(count: int, sizes: list[int], mass: Array, draws: int, seed: int) -> tuple[list[Array], Array]:
    """Random coalitions in pairs of complements, each once, and how often each was drawn."""
    found: dict[bytes, list[Any]] = {}
    # A coalition drawn again costs no forward pass, so that draws go on until enough are different, within reason.
    for draw in range(4 * draws):
        if len(found) + 2 > draws:
            break
        rng = generator(seed, draw)
        size = int(rng.choice(sizes, p=mass / mass.sum()))
        row = np.zeros(count, dtype=bool)
        row[rng.permutation(count)[:size]] = True
        for one in (row, ~row):
            found.setdefault(one.tobytes(), [one, 0])[1] += 1
    rows = [row for row, _ in found.values()]
    return rows, np.array([times for _, times in found.values()], dtype=np.float64)


def solve(coalitions: Array, weights: Array, gains: Array, total: float) -> Array:
    """Values whose sums over coalitions fit ``gains`` best, and whose sum over all players is ``total``.

    Args:
        coalitions: bool ``[M, players]``.
        weights: ``[M]``.
        gains: ``[M]``: score of each coalition less that of the empty one.
        total: Score of all players less that of none.

    Returns:
        float64 ``[players]``; of several solutions the one nearest to equal shares.
    """
    count = coalitions.shape[1]
    equal = np.full(count, total / max(count, 1))
    if count < 2 or not len(coalitions):
        return equal
    basis = _equal_sums(count)
    root = np.sqrt(weights)
    left = root[:, None] * (coalitions.astype(np.float64) @ basis)
    right = root * (gains - coalitions @ equal)
    found = equal + basis @ np.linalg.lstsq(left, right, rcond=None)[0]
    return np.asarray(found + (total - found.sum()) / count)


def _equal_sums(count: int) -> Array:
    """``[players, players - 1]``: a basis of what sums to zero.

    Deviations from equal shares do: written in it, the constraint holds by construction and no player is singled out to
    take up the rest.
    """
    return np.linalg.qr(np.column_stack([np.ones(count), np.eye(count)[:, 1:]]))[0][:, 1:]


def solution(coalitions: Array, weights: Array) -> Array:
    """:func:`solve` as a matrix ``[players, 1 + M]``: from the scores of none and of the coalitions to values.

    All scores are less that of all players, so that the total is what the first one lacks.
    """
    turns, count = coalitions.shape
    equal = np.zeros((count, turns + 1))
    equal[:, 0] = -1.0 / max(count, 1)
    if count < 2 or not turns:
        return equal
    basis, root = _equal_sums(count), np.sqrt(weights)[:, None]
    gains = np.concatenate([np.full((turns, 1), -1.0), np.eye(turns)], axis=1)
    left, right = root * (coalitions.astype(np.float64) @ basis), root * (gains - coalitions @ equal)
    return np.asarray(equal + basis @ np.linalg.lstsq(left, right, rcond=None)[0])
