"""LIME: a linear model of the score around the input, in terms of which players are present."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.errors import OptionError
from onnxplain.engine.explanation import Array
from onnxplain.engine.extras import optional
from onnxplain.engine.masks import Game
from onnxplain.engine.method import Parts, Plan, Run, method
from onnxplain.engine.methods.perturbation import Perturbation
from onnxplain.engine.paths import baseline_sets
from onnxplain.engine.players import check_players, make_players
from onnxplain.engine.shipping.games import ship_game


@method("lime")
class LIME(Perturbation):
    """Ridge regression of the score on the players that are present, near the full input.

    Each draw keeps every player with probability one half. It counts the more, the nearer it is to the full
    input: ``sqrt(exp(-d^2 / kernel_width^2))`` with the cosine distance d between the two lists of players.
    The coefficients are the players' values, spread evenly over their elements. How well the linear model
    fits is reported as R^2: below about one half, its coefficients say little.

    Args:
        draws: Altered copies per sample.
        players: See :mod:`onnxplain.engine.players`; ``auto`` is superpixels for pictures.
        baseline: What absent players are replaced by: see :mod:`onnxplain.engine.baselines`; scores are averaged
            over several.
        kernel_width: Of the weights.
        alpha: Strength of the ridge penalty.
        reduction: Of channels, for the map.
    """

    summary: ClassVar[str] = (
        "coefficients of a local linear model over superpixels, words or features; forward passes alone"
    )
    source: ClassVar[str] = "Ribeiro et al. 2016, arXiv 1602.04938, section 3"
    axioms: ClassVar[frozenset[str]] = frozenset({"implementation_invariance", "linearity"})
    quick: ClassVar[Mapping[str, Any]] = {"draws": 150}

    draws: int = 1000
    players: Any = "auto"
    baseline: Any = "zero"
    kernel_width: float = 0.25
    alpha: float = 1.0
    reduction: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_players(self.players)
        if self.draws < 1:
            raise OptionError(f"draws={self.draws} must be at least 1")
        if not self.kernel_width > 0:
            raise OptionError(f"kernel_width={self.kernel_width} must be positive")
        if not 0 <= self.alpha < np.inf:
            raise OptionError(f"alpha={self.alpha} is not possible; give 0 or more")

    def ship(self, plan: Plan) -> None:
        ship_game(plan, self.players, self.baseline, self._shipped, self.reduction, auto="slic", sums=False)

    def _shipped(self, seed: int, count: int) -> tuple[Array, Array]:
        """The coalitions of a file, and the regression as a matrix; all scores are less that of everybody."""
        present = self._draws(seed, count)
        weights = self.weights(present)
        centred = present - np.average(present.astype(np.float64), axis=0, weights=weights)
        weighted = centred.T * weights
        found = np.linalg.lstsq(weighted @ centred + self.alpha * np.eye(count), weighted, rcond=None)[0]
        return present[1:], np.asarray(found[:, 1:])

    def reduce(self, run: Run) -> Parts:
        linear_model = optional("sklearn.linear_model", "lime's ridge regression", "choose method='kernel_shap'")
        players = make_players(self.players, run.x, run.labels, auto="slic")
        game = Game(run, players, baseline_sets(self.baseline, run))
        draws = [self._draws(run.seed, int(count)) for count in players.counts]
        scores = game.values(self.draws, lambda sample, turn: np.asarray(draws[sample][turn + 1]))
        values, fits = [], []
        for n, present in enumerate(draws):
            y = np.concatenate([run.score[n : n + 1], scores[n]])
            weights = self.weights(present)
            ridge = linear_model.Ridge(alpha=self.alpha).fit(present.astype(np.float64), y, sample_weight=weights)
            values.append(np.asarray(ridge.coef_, dtype=np.float64))
            fits.append(_fit(y, ridge.predict(present.astype(np.float64)), weights))
        low, high = min(fits), max(fits)
        shown = f"{low:.2f}" if len(fits) == 1 else f"{low:.2f} to {high:.2f}"
        notes = [f"{players.describe()}, {self.draws} draws; R^2 of the linear model {shown}"]
        return self.parts(run, players.spread(values, run.x), notes=notes)

    def _draws(self, seed: int, count: int) -> Array:
        """bool ``[1 + draws, players]``: everybody, then each with probability one half."""
        rows = [np.ones(count, dtype=bool)]
        rows += [generator(seed, draw).random(count) < 0.5 for draw in range(self.draws)]
        return np.stack(rows)

    def weights(self, present: Array) -> Array:
        """How much each draw counts: its nearness to the full input."""
        share = present.mean(axis=1)
        distance = 1.0 - np.sqrt(share)  # cosine of a 0/1 list with all ones; of the empty list: 1
        return np.asarray(np.sqrt(np.exp(-(distance**2) / self.kernel_width**2)))


def _fit(y: Array, predicted: Array, weights: Array) -> float:
    """Weighted R^2; 1 where there is nothing to explain."""
    centre = np.average(y, weights=weights)
    spread = float(np.sum(weights * (y - centre) ** 2))
    return 1.0 - float(np.sum(weights * (y - predicted) ** 2)) / spread if spread > 0 else 1.0
