"""Shapley value sampling: what each player adds, averaged over random orders of leaving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.masks import Game
from onnxplain.engine.method import Parts, Plan, Run, Variant, method
from onnxplain.engine.methods.perturbation import Perturbation
from onnxplain.engine.paths import baseline_sets, convergence
from onnxplain.engine.players import check_players, make_players
from onnxplain.engine.shipping.games import ship_game

#: Relative gap of the sum that float32 scores leave.
TOLERANCE = 1e-4


@method("shapley_sampling")
class ShapleySampling(Perturbation):
    """Players leave one by one in random order; each gets the drop of the score when it goes, on average.

    Every order's drops sum to ``f(x) - f(baseline)``, so their mean does exactly, however few orders there are.
    A player's value is spread evenly over its elements. Standard errors are those of the mean over orders.

    Args:
        permutations: Orders per sample; each takes a forward pass per player.
        players: See :mod:`onnxplain.engine.players`.
        baseline: What those who left are replaced by: see :mod:`onnxplain.engine.baselines`; scores are averaged
            over several.
        antithetic: Every second order is the one before reversed, which lowers the variance.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = "Shapley values by random orders of leaving; forward passes alone"
    source: ClassVar[str] = (
        "Castro et al. 2009, Computers and Operations Research 36; Ancona et al. 2018, arXiv 1711.06104"
    )
    axioms: ClassVar[frozenset[str]] = frozenset(
        {"completeness", "dummy", "implementation_invariance", "linearity", "sensitivity"}
    )
    variants: ClassVar[tuple[Variant, ...]] = (Variant({"permutations": 1}, axioms),)
    quick: ClassVar[Mapping[str, Any]] = {"permutations": 2}

    permutations: int = 5
    players: Any = "auto"
    baseline: Any = "zero"
    antithetic: bool = False
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_players(self.players)
        if self.permutations < 1:
            raise OptionError(f"permutations={self.permutations} must be at least 1")
        if self.antithetic and self.permutations % 2:
            raise OptionError(
                f"antithetic=True pairs orders, and permutations={self.permutations} is odd; give an even number"
            )

    def order(self, seed: int, turn: int, count: int) -> Array:
        """Who leaves first, second, ... in one order."""
        draw, reverse = divmod(turn, 2) if self.antithetic else (turn, 0)
        found = generator(seed, draw).permutation(count)
        return found[::-1] if reverse else found

    def ship(self, plan: Plan) -> None:
        ship_game(plan, self.players, self.baseline, self._shipped, self.reduction)

    def _shipped(self, seed: int, count: int) -> tuple[Array, Array]:
        """The coalitions of a file, nobody first, and what turns their scores into values."""
        coalitions = [np.zeros(count, dtype=bool)]
        values = np.zeros((count, 1 + self.permutations * (count - 1)))
        for turn in range(self.permutations):
            order, there, before = self.order(seed, turn, count), np.ones(count, dtype=bool), None
            for place, player in enumerate(order):
                there = there.copy()
                there[player] = False
                after = len(coalitions) if place < count - 1 else 0  # the last one leaves nobody
                coalitions += [there] if after else []
                values[player, after] -= 1.0 / self.permutations
                if before is not None:
                    values[player, before] += 1.0 / self.permutations
                before = after
        return np.stack(coalitions), values

    def reduce(self, run: Run) -> Parts:
        players = make_players(self.players, run.x, run.labels)
        game = Game(run, players, baseline_sets(self.baseline, run))
        empty = game.nobody()
        drops = self._drops(run, game, empty)
        values = [d.mean(axis=0) for d in drops]
        attributions = players.spread(values, run.x)
        residual = convergence(attributions, run.score - empty, TOLERANCE, "sum of the players' values")
        errors = [self._standard_error(d) for d in drops]
        notes = [f"{players.describe()}, {self.permutations} orders"]
        known = [e for e in errors if e is not None]
        if known:
            notes.append(f"largest standard error of a player: {max(float(e.max()) for e in known):.2g}")
        spread = players.spread(known, run.x) if known else None
        return self.parts(run, attributions, spread, residual=residual, baseline_score=empty, notes=notes)

    def _drops(self, run: Run, game: Game, empty: Array) -> list[Array]:
        """Per sample ``[permutations, players]``: the drop of the score as each player leaves."""
        counts = game.players.counts
        orders = [
            np.stack([self.order(run.seed, turn, int(count)) for turn in range(self.permutations)])
            for n, count in enumerate(counts)
        ]
        between = np.maximum(counts - 1, 0)

        def present(sample: int, turn: int) -> Array:
            which, gone = divmod(turn, int(between[sample]))
            there = np.ones(int(counts[sample]), dtype=bool)
            there[orders[sample][which][: gone + 1]] = False
            return there

        result = []
        for n, scores in enumerate(game.values(between * self.permutations, present)):
            walk = np.empty((self.permutations, int(counts[n]) + 1))
            walk[:, 0], walk[:, -1] = run.score[n], empty[n]
            walk[:, 1:-1] = scores.reshape(self.permutations, -1)
            drops = np.empty((self.permutations, int(counts[n])))
            np.put_along_axis(drops, orders[n], -np.diff(walk, axis=1), axis=1)
            result.append(drops)
        return result

    def _standard_error(self, drops: Array) -> Array | None:
        """Of the mean over independent orders (pairs of them where they are antithetic); None for a single one."""
        units = drops.reshape(-1, 2, drops.shape[1]).mean(axis=1) if self.antithetic else drops
        return units.std(axis=0, ddof=1) / len(units) ** 0.5 if len(units) > 1 else None
