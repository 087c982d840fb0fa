"""Games between parts of the input inside a graph: stored coalitions, and a stored matrix from scores to values.

The methods that play them (KernelSHAP, Shapley sampling, LIME) are linear in the scores once it is fixed which
coalitions are evaluated, and that depends on the seed and on the number of players alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxplain.engine.errors import OptionError
from onnxplain.engine.method import Plan, deliver
from onnxplain.engine.players import make_players, needs_data
from onnxplain.engine.shipping.baselines import shipped_baselines
from onnxplain.engine.shipping.drawn import drawn, fixed_sizes
from onnxplain.engine.shipping.turns import left_over
from onnxplain.engine.shipping.variants import scores_of_coalitions, spread

Array = np.ndarray[Any, Any]

#: From a seed and a number of players to coalitions, bool ``[M, players]``, and to the matrix ``[players, M]`` from their
#: scores, less that of all players, to the players' values.
Play = Callable[[int, int], tuple[Array, Array]]


def ship_game(
    plan: Plan, players: Any, baseline: Any, play: Play, reduction: str, *, auto: str = "", sums: bool = True
) -> None:
    """Emit each player's value, spread over its elements.

    Args:
        plan: The graph.
        players: See :mod:`onnxplain.engine.players`.
        baseline: What absent players are replaced by; scores are averaged over several.
        play: Which coalitions are evaluated, and what is made of their scores.
        reduction: Of channels, for the map.
        auto: What ``players="auto"`` means for pictures.
        sums: Whether the values sum to the score less that of nobody, whose coalition then is the first.

    Raises:
        OptionError: Players that are found in the input, or sizes that are open.
    """
    op = plan.rewriter.op
    owner, count = _players(plan, players, auto)
    scores = scores_of_coalitions(plan, owner, lambda seed: play(seed, count)[0], shipped_baselines(plan, baseline))
    gains = op.Sub(scores, op.Unsqueeze(plan.seed.score, [1]))
    matrix = drawn(plan, lambda seed: play(seed, count)[1].T, plan.subjects[0].value.dtype, "coalitions")
    found = spread(plan, op.MatMul(gains, matrix), owner)
    if sums:
        nobody = op.Gather(gains, op.constant(0, ir.DataType.INT64), axis=1)
        left_over(plan, op.Neg(nobody), list(found.values()))
    deliver(plan, found, reduction)


def _players(plan: Plan, spec: Any, auto: str) -> tuple[dict[str, Array], int]:
    """Owner per element of one sample, and how many players there are."""
    x = {s.name: np.zeros((1, *fixed_sizes(s, "players are stored in the file"))) for s in plan.subjects}
    labels = {s.name: s.labels for s in plan.subjects}
    specs = spec if isinstance(spec, Mapping) else dict.fromkeys(x, spec)
    for name, array in x.items():
        if needs_data(specs.get(name, "auto"), array, labels[name], auto):
            raise OptionError(
                "superpixels are found in each picture, outside a graph, and cannot be written into a file; "
                "give players='grid:8', 'patches:16', or an array of whole numbers"
            )
    found = make_players(spec, x, labels, auto)
    return found.owner, int(found.counts[0])
