"""Maps that know nothing of the model, to compare methods with: at random, and the picture's edges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxplain.engine.draws import generator
from onnxplain.engine.explanation import Array


def random_map(x: Array, places: list[int], seed: int) -> Array:
    """Uniform noise ``[N, places...]``, the same for every sample."""
    sizes = [x.shape[a] for a in places]
    return np.broadcast_to(generator(seed, 0).random(sizes), (len(x), *sizes)).copy()


def edge_map(x: Array, places: list[int], seed: int) -> Array:
    """Length of the differences between neighbours (a Sobel filter without smoothing), summed over channels."""
    values = x.astype(np.float64)
    squares = np.zeros(values.shape)
    for axis in places:
        if values.shape[axis] > 1:
            squares += np.gradient(values, axis=axis) ** 2
    channels = tuple(a for a in range(1, x.ndim) if a not in places)
    return np.asarray(np.sqrt(squares).sum(axis=channels))


#: By the name under which they stand among the methods.
REFERENCES: dict[str, Callable[[Array, list[int], int], Array]] = {"random": random_map, "edges": edge_map}
