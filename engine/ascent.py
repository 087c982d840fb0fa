"""Searches in the landscape of a score: along its gradient, inside a ball, to the nearest point with a given value.

All of them go step by step, the samples side by side, and stop where the gradient is zero instead of
dividing by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.explanation import Array
from onnxplain.engine.landscape import Landscape, any_in, dual_length, length, projected, steepest

#: How a search ended.
REACHED, STATIONARY, SPENT = "reached", "stationary", "out of steps"

#: Halvings of a step that does not improve, before the point counts as stationary.
HALVINGS = 20

#: Smallest step of the search in a ball, as a share of its radius.
FINEST = 1e-3

#: Trials per step: halved steps count as well.
PATIENCE = 4


@dataclass
class Journey:
    """Where a search led.

    Attributes:
        z: End points, ``[N, D]``.
        score: There, ``[N]``.
        integral: Gradient times move summed over the steps (trapezoidal rule), ``[N, D]``; None for searches
            that jump.
        state: Per sample, how it ended.
    """

    z: Array
    score: Array
    integral: Array | None
    state: list[str]


def flow(
    land: Landscape,
    sign: Array,
    norm: float,
    *,
    step: Array,
    radius: Array,
    goal: Array,
    steps: int,
    trials: int,
    growth: float = 1.0,
) -> Journey:
    """Follow the steepest direction, as long as every step improves the score; a step that does not is halved.

    Args:
        land: The score.
        sign: ``[N]``: 1 where it is to rise, -1 where to fall.
        norm: 1, 2 or infinity: what the direction is steepest in.
        step: ``[N]``: length of a step.
        radius: ``[N]``: distance from the sample at which to stop; may be infinite.
        goal: ``[N]``: score at which to stop; may be infinite.
        steps: Steps that are taken at most.
        trials: Steps that are tried at most, those that do not improve included.
        growth: Factor on the length after every step that improves.
    """
    walk = _Flow(land, sign, norm, step, radius, goal, steps, growth)
    for _ in range(trials):
        if not walk.active.any():
            break
        walk.advance()
    return Journey(walk.z, walk.score, walk.integral, walk.state)


class _Flow:
    def __init__(
        self,
        land: Landscape,
        sign: Array,
        norm: float,
        step: Array,
        radius: Array,
        goal: Array,
        steps: int,
        growth: float,
    ) -> None:
        self.land, self.sign, self.norm, self.steps, self.growth = land, sign, norm, steps, growth
        self.full, self.radius, self.goal = step.copy(), radius, goal
        self.z, self.score, self.gradient = land.x.copy(), land.score.copy(), land.gradient.copy()
        self.integral = np.zeros_like(self.z)
        self.step = step.copy()
        self.taken = np.zeros(len(step), dtype=int)
        self.state = [SPENT] * len(step)
        self.active = np.ones(len(step), dtype=bool)
        self._close(np.arange(len(step)), sign * (goal - self.score) <= 0, REACHED)
        self._close(np.arange(len(step)), radius <= 0, REACHED)

    def _close(self, rows: Array, which: Array, state: str) -> None:
        for row in rows[which]:
            if self.active[row]:
                self.active[row], self.state[row] = False, state

    def advance(self) -> None:
        """One trial of every active sample."""
        rows = np.flatnonzero(self.active)
        sign = self.sign[rows]
        direction = steepest(sign[:, None] * self.gradient[rows], self.norm)
        self._close(rows, ~any_in(direction), STATIONARY)
        keep = self.active[rows]
        rows, sign, direction = rows[keep], sign[keep], direction[keep]
        if not len(rows):
            return
        points = self._within(rows, self.z[rows] + self.step[rows, None] * direction)
        score, gradient = self.land.at(points, rows)
        better = np.isfinite(score) & (sign * (score - self.score[rows]) > 0)
        past = better & (sign * (score - self.goal[rows]) > 0)
        if past.any():
            points[past], score[past], gradient[past] = self._back_to_goal(rows[past], points[past], score[past])
        self._move(rows[better], points[better], score[better], gradient[better])
        self._close(rows, past, REACHED)
        self.full[rows[better]] *= self.growth
        self.step[rows] = np.where(better, np.minimum(2 * self.step[rows], self.full[rows]), 0.5 * self.step[rows])
        self._close(rows, self.step[rows] < self.full[rows] * 0.5**HALVINGS, STATIONARY)
        self._close(rows, self.taken[rows] >= self.steps, SPENT)

    def _within(self, rows: Array, points: Array) -> Array:
        """Points in the box and not further away than the radius."""
        points = self.land.inside(points)
        away = points - self.land.x[rows]
        far = length(away, self.norm)
        share = np.minimum(1.0, self.radius[rows] / np.where(far > 0, far, 1.0))
        return np.where((share < 1.0)[:, None], self.land.x[rows] + share[:, None] * away, points)

    def _back_to_goal(self, rows: Array, points: Array, score: Array) -> tuple[Array, Array, Array]:
        """Where the last step meets the goal, taking it as straight."""
        part = (self.goal[rows] - self.score[rows]) / (score - self.score[rows])
        met = self.z[rows] + part[:, None] * (points - self.z[rows])
        return met, *self.land.at(met, rows)

    def _move(self, rows: Array, points: Array, score: Array, gradient: Array) -> None:
        self.integral[rows] += 0.5 * (gradient + self.gradient[rows]) * (points - self.z[rows])
        self.z[rows], self.score[rows], self.gradient[rows] = points, score, gradient
        self.taken[rows] += 1
        away = length(points - self.land.x[rows], self.norm)
        self._close(rows, away >= self.radius[rows] * (1 - 1e-9), REACHED)


def ball(land: Landscape, sign: Array, norm: float, radius: Array, steps: int) -> Journey:
    """The best score within a distance: projected ascent from the linear solution, improving steps alone."""
    z, score, gradient = land.x.copy(), land.score.copy(), land.gradient.copy()
    state = [STATIONARY if still else SPENT for still in ~any_in(gradient)]
    step = radius.copy()
    active = any_in(gradient) & (radius > 0)
    for _ in range(PATIENCE * steps):
        rows = np.flatnonzero(active)
        if not len(rows):
            break
        move = z[rows] + step[rows, None] * steepest(sign[rows, None] * gradient[rows], norm) - land.x[rows]
        points = land.inside(land.x[rows] + projected(move, radius[rows], norm))
        found, slope = land.at(points, rows)
        better = np.isfinite(found) & (sign[rows] * (found - score[rows]) > 0)
        up = rows[better]
        z[up], score[up], gradient[up] = points[better], found[better], slope[better]
        step[rows] = np.where(better, step[rows], 0.5 * step[rows])
        for row in rows:
            if step[row] < radius[row] * FINEST or not gradient[row].any():
                active[row], state[row] = False, REACHED
    return Journey(z, score, None, state)


def nearest(land: Landscape, goal: Array, norm: float, steps: int, seed: int) -> Journey:
    """The nearest points at which the score is ``goal``.

    First the crossing along the straight line of the gradient; then, again and again, the score is taken as
    linear where the last crossing was, and the crossing on the line to that plane's nearest point replaces it
    when it is nearer. Where the gradient is zero, lines towards zero and in random directions are tried.

    Args:
        land: The score.
        goal: ``[N]``: the score to reach.
        norm: 1, 2 or infinity: what is near.
        steps: Improvements at most.
        seed: Of the random directions.
    """
    x, count = land.x, len(goal)
    sign = np.sign(goal - land.score)
    best = np.full_like(x, np.nan)
    done = sign == 0
    best[done] = x[done]
    first = steepest(sign[:, None] * land.gradient, norm)
    guess = np.abs(goal - land.score) / np.maximum(dual_length(land.gradient, norm), 1e-300)
    for direction, start in _lines(land, first, guess, seed):
        rows = np.flatnonzero(any_in(np.isnan(best)) & any_in(direction) & np.isfinite(start))
        if len(rows):
            away = land.inside(x[rows] + start[rows, None] * direction[rows]) - x[rows]
            best[rows] = _crossing(land, rows, away, goal[rows], sign[rows])
    found = ~any_in(np.isnan(best))
    active = found & ~done
    for _ in range(steps):
        rows = np.flatnonzero(active)
        if not len(rows):
            break
        active[rows] = _improve(land, rows, best, goal, sign, norm)
    best[~found] = x[~found]
    state = [REACHED if f else STATIONARY if not g.any() else SPENT for f, g in zip(found, land.gradient, strict=True)]
    return Journey(best, land.score_at(best, np.arange(count)), None, state)


def _lines(land: Landscape, first: Array, guess: Array, seed: int) -> list[tuple[Array, Array]]:
    """Directions to try one after the other, and how far to go first: gradient, towards zero, four random ones."""
    size = np.maximum(np.abs(land.x).max(axis=1), 1e-6)
    random = [np.broadcast_to(generator(seed, k).standard_normal(land.x.shape[1]), land.x.shape) for k in range(4)]
    return [(first, guess), (-land.x, np.ones(len(size))), *((line, size) for line in random)]


def _crossing(land: Landscape, rows: Array, away: Array, goal: Array, sign: Array, doublings: int = 12) -> Array:
    """Where lines ``x + t away`` first reach the goal: doubling t, then the Illinois rule. NaN where they do not."""
    x = land.x[rows]
    low, high = np.zeros(len(rows)), np.ones(len(rows))
    gap_low = sign * (land.score[rows] - goal)  # negative until the goal is reached
    gap_high = np.full(len(rows), -np.inf)
    open_ = np.ones(len(rows), dtype=bool)
    for _ in range(doublings):
        which = np.flatnonzero(open_)
        if not len(which):
            break
        points = land.inside(x[which] + high[which, None] * away[which])
        gap_high[which] = sign[which] * (land.score_at(points, rows[which]) - goal[which])
        open_[which] = ~(gap_high[which] >= 0)
        missed = which[open_[which]]
        low[missed], gap_low[missed], high[missed] = high[missed], gap_high[missed], 2 * high[missed]
    close = 1e-5 * np.abs(land.score[rows] - goal)
    active = ~open_ & (gap_high > close)
    for _ in range(40):
        which = np.flatnonzero(active)
        if not len(which):
            break
        a, b, fa, fb = low[which], high[which], gap_low[which], gap_high[which]
        middle = np.where(np.isfinite(fa), b - fb * (b - a) / (fb - fa), 0.5 * (a + b))
        points = land.inside(x[which] + middle[:, None] * away[which])
        gap = sign[which] * (land.score_at(points, rows[which]) - goal[which])
        over = gap >= 0
        # Illinois: the end that stays counts half, so that both ends come in.
        high[which], gap_high[which] = np.where(over, middle, b), np.where(over, gap, 0.5 * fb)
        low[which], gap_low[which] = np.where(over, a, middle), np.where(over, 0.5 * fa, gap)
        active[which] = (np.abs(gap) > close[which]) & (b - a > 1e-7 * b)
        high[which] = np.where(np.abs(gap) <= close[which], middle, high[which])
    found = land.inside(x + high[:, None] * away)
    return np.where(open_[:, None], np.nan, found)


def _improve(land: Landscape, rows: Array, best: Array, goal: Array, sign: Array, norm: float) -> Array:
    """One linearisation at the best points, in place; says which rows got nearer."""
    x, z = land.x[rows], best[rows]
    score, gradient = land.at(z, rows)
    size = dual_length(gradient, norm)
    safe = np.where(size > 0, size, 1.0)
    apart = goal[rows] - score - np.sum(gradient * (x - z), axis=1)
    plane = steepest(gradient, norm) * (apart / safe)[:, None]
    before = length(z - x, norm)
    nearer = np.zeros(len(rows), dtype=bool)
    for share in (1.0, 0.5, 0.25, 0.125):
        which = np.flatnonzero(~nearer & (size > 0))
        if not len(which):
            break
        away = (1 - share) * (z - x)[which] + share * plane[which]
        found = _crossing(land, rows[which], away, goal[rows][which], sign[rows][which], doublings=3)
        gain = length(found - x[which], norm) < before[which] * (1 - 1e-4)  # NaN is no gain
        best[rows[which[gain]]] = found[gain]
        nearer[which[gain]] = True
    return nearer
